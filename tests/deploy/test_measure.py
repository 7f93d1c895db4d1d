"""Memory and time of exported models, measured in real processes."""

from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from halvit_mm.backbones import HaLViT
from halvit_mm.deploy import measure as measure_module
from halvit_mm.deploy.export import make_graph
from halvit_mm.deploy.graph import keep_weights_single
from halvit_mm.deploy.measure import Measured, Memory, measure, table
from halvit_mm.errors import UserError

pytestmark = [
    pytest.mark.xdist_group("measured"),
    pytest.mark.skipif(
        not measure_module._SMAPS.exists(), reason="this system does not tell resident memory"
    ),
]


class Backbone(nn.Module):
    output_names = ("feature",)

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        arch = dict(dim=512, depth=4, num_heads=8)
        self.backbone = HaLViT(arch=arch, img_size=64, tied=tied).eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(image)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """The same backbone, tied and dense, with 25 and 51 MB of weights."""
    folder = tmp_path_factory.mktemp("measured")
    paths = {}
    for name, tied in (("half", True), ("dense", False)):
        graph = make_graph(Backbone(tied=tied), (64, 64), any_size=False, any_batch=True)
        keep_weights_single(graph)
        paths[name] = folder / f"{name}.onnx"
        ir.save(graph, paths[name])
    ir.save(graph, folder / "apart.onnx", external_data="apart.onnx.data")
    graph = ir.load(paths["half"])
    ir.save(graph, folder / "half_apart.onnx", external_data="half_apart.onnx.data")
    return paths | {"apart": folder / "half_apart.onnx"}


def test_a_tied_model_takes_half_of_the_memory(files: dict[str, Path]) -> None:
    models = [(files["half"], "memory"), (files["half"], "speed"), (files["dense"], "memory")]
    half, fast, dense = measure([(str(f), p) for f, p in models], rounds=2, batch=2)
    weights = half.file_bytes
    assert half.file_bytes < 0.52 * dense.file_bytes
    assert weights < half.memory.loaded < weights + 14e6
    assert half.memory.loaded < 0.62 * dense.memory.loaded
    assert half.memory.ran < half.memory.loaded + 8e6
    assert fast.memory.loaded > 1.6 * half.memory.loaded
    assert len(half.seconds) == len(dense.seconds) == 2 and min(half.seconds) > 0


def test_mapped_weights_are_not_the_processs_own(files: dict[str, Path]) -> None:
    (apart,) = measure([(str(files["apart"]), "memory")], rounds=1)
    assert apart.file_bytes > 25e6
    assert apart.memory.anonymous < 0.45 * apart.file_bytes
    assert apart.memory.ran > 0.8 * apart.file_bytes


def test_the_table() -> None:
    def measured(name: str, scale: int, seconds: tuple[float, ...]) -> Measured:
        memory = Memory(loaded=scale * 10**6, anonymous=scale * 10**6, ran=2 * scale * 10**6)
        return Measured(
            path=f"folder/{name}", prefer="memory", file_bytes=scale * 10**6, memory=memory,
            seconds=seconds,
        )  # fmt: skip

    lines = table([measured("a", 5, (0.1, 0.3, 0.2)), measured("b", 10, (0.1, 0.2, 0.1))])
    first, last = lines.split("\n")[2:]
    assert first.startswith("| a | 5.0 (0.500) | 5.0 (0.500) | 5.0 | 10.0 (0.500) | 200.0 | 1.500,")
    assert last.endswith("| 1.000, 1.000–1.000 |")


def test_errors_of_the_measured_process_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^.*missing.onnx: there is no such model"):
        measure([(str(tmp_path / "missing.onnx"), "memory")])
