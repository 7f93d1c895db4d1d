"""Each shared weight is in a graph once, and stays single in onnxruntime."""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from small_classifiers import CASES, QUICK, SIDE, small_classifier

from halvit_mm.deploy.export import check_single, make_graph
from halvit_mm.deploy.graph import LARGE, keep_weights_single, shared_weights
from halvit_mm.deploy.programs import exportable
from halvit_mm.deploy.runtime import with_constant_weights
from halvit_mm.errors import UserError

pytestmark = pytest.mark.xdist_group("graphs")  # its exports are made once

#: What each graph uses more than once: parts of the names, and how many.
SHARED = {
    "halvit": {"attn": 4, "ffn": 2},
    "halvit with class token": {"attn": 4, "ffn": 2},
    "halvit with windows": {"attn": 4, "ffn": 2},
    "halvit with corrections": {"attn": 4, "ffn": 2},
    "mini_deit": {"qkv": 2, "proj": 2, "fc1": 2, "fc2": 2},
    "mini_deit, tied": {"attn": 4, "ffn": 2},
    "mini_swin": {"qkv": 2, "proj": 2, "fc1": 2, "fc2": 2},
    "mini_swin, tied": {"attn": 4, "ffn": 2},
    "half_resnet": {"layer3": 1, "layer4": 1},
    "half_resnext": {"layer3": 1, "layer4": 1},
}


@cache
def exported(name: str, any_size: bool = False) -> tuple[torch.nn.Module, bytes, bytes]:
    """A module, its graph as the exporter writes it, and the graph with single weights."""
    module = exportable(small_classifier(name))
    graph = make_graph(module, (SIDE, SIDE), any_size=any_size, any_batch=True)
    raw = ir.to_proto(graph).SerializeToString()
    keep_weights_single(graph)
    return module, raw, ir.to_proto(graph).SerializeToString()


def run(graph: bytes, pixels: torch.Tensor) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": pixels.numpy()})[0])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference in units of the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def weight_sizes(graph: onnx.ModelProto) -> Counter:
    return Counter(
        {
            value.name: int(np.prod(value.dims))
            for value in graph.graph.initializer
            if value.data_type == onnx.TensorProto.FLOAT and np.prod(value.dims) >= LARGE
        }
    )


def optimised(graph: bytes, folder: Path) -> onnx.ModelProto:
    """What onnxruntime makes of a graph when it loads it, with all constants that it keeps."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_pytorchs(name: str) -> None:
    module, _, graph = exported(name)
    for batch in (1, 3):
        pixels = torch.rand(batch, 3, SIDE, SIDE) * 255
        with torch.no_grad():
            (expected,) = module(pixels)
        assert expected.std() > 0.01
        assert apart(run(graph, pixels), expected) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_each_weight_is_stored_once(name: str) -> None:
    module, _, graph = exported(name)
    model = onnx.load_from_string(graph)
    stored = Counter()
    for value in model.graph.initializer:
        numbers = numpy_helper.to_array(value)
        if numbers.ndim > 1 and numbers.size >= LARGE:
            stored[np.sort(numbers, axis=None).tobytes()] += 1
    assert set(stored.values()) == {1}
    own = sum(p.numel() for p in module.parameters())
    # Relative positions are looked up when the graph is made for one size of images.
    assert sum(weight_sizes(model).values()) <= 1.02 * own


@pytest.mark.parametrize("name", CASES)
def test_shared_weights_are_inputs_with_a_default(name: str) -> None:
    _, _, graph = exported(name)
    model = ir.from_proto(onnx.load_from_string(graph))
    names = shared_weights(model)
    for part, number in SHARED[name].items():
        assert sum(part in weight for weight in names) == number, names
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["image"]


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_keeps_no_copy(name: str, tmp_path: Path) -> None:
    _, raw, graph = exported(name)
    stored = sum(weight_sizes(onnx.load_from_string(graph)).values())
    kept = sum(weight_sizes(optimised(graph, tmp_path)).values())
    assert kept <= 1.02 * stored
    # The form matters: as the exporter writes the graph, there are copies of tied weights.
    if "tied" in name or name.startswith("halvit"):
        assert sum(weight_sizes(optimised(raw, tmp_path)).values()) > 1.4 * stored


def test_no_weight_is_a_constant_that_could_be_laid_out_anew() -> None:
    # onnxruntime packs constants for each product that reads them; of inputs it never does.
    for name in QUICK:
        model = onnx.load_from_string(exported(name)[2])
        inputs = {value.name for value in model.graph.input}
        large = set(weight_sizes(model))
        uses = Counter(value for node in model.graph.node for value in set(node.input))
        assert not [n for n in large if uses[n] > 1 and n not in inputs and "bias" not in n]


@pytest.mark.parametrize(
    "name",
    [
        "halvit with windows",
        "half_resnet",
        pytest.param("mini_swin", marks=pytest.mark.full),
        pytest.param("mini_deit", marks=pytest.mark.full),
    ],
)
def test_one_graph_for_all_sizes(name: str) -> None:
    module, _, graph = exported(name, any_size=True)
    for size in ((SIDE, SIDE), (96, 64), (72, 120)):
        pixels = torch.rand(2, 3, *size) * 255
        with torch.no_grad():
            (expected,) = module(pixels)
        assert apart(run(graph, pixels), expected) < 1e-5


def test_products_keep_their_bias_and_shape() -> None:
    model = onnx.load_from_string(exported("halvit")[2])
    products = [node for node in model.graph.node if node.op_type == "Gemm"]
    # Keys, queries, values, output, and two of the feed-forward layer, for each of two blocks.
    assert len([node for node in products if len(node.input) == 3]) >= 12
    weights = set(weight_sizes(model))
    assert not [n for n in model.graph.node if n.op_type == "Slice" and n.input[0] in weights]


def test_speed_makes_constants_of_them_again(tmp_path: Path) -> None:
    module, _, graph = exported("halvit")
    assert shared_weights(ir.from_proto(onnx.load_from_string(graph)))
    file = tmp_path / "model.onnx"
    file.write_bytes(graph)
    fast = with_constant_weights(file)
    assert not shared_weights(ir.from_proto(onnx.load_from_string(fast)))
    pixels = torch.rand(1, 3, SIDE, SIDE) * 255
    with torch.no_grad():
        (expected,) = module(pixels)
    assert apart(run(fast, pixels), expected) < 1e-5


def test_a_weight_that_is_stored_twice_is_found() -> None:
    model = ir.from_proto(onnx.load_from_string(exported("halvit")[2]))
    check_single(model)
    weight = model.graph.initializers["backbone.blocks.0.ffn.weight"]
    copy = ir.Value(
        name="copy", const_value=ir.Tensor(np.ascontiguousarray(weight.const_value.numpy().T))
    )
    model.graph.register_initializer(copy)
    with pytest.raises(UserError, match="copy more than once"):
        check_single(model)


def test_a_table_of_indices_takes_a_byte_each_and_is_shared() -> None:
    module = exportable(small_classifier("mini_deit"))
    graph = make_graph(module, (128, 128), any_size=False, any_batch=True)

    def tables() -> list[int]:
        constants = graph.graph.initializers.values()
        return [v.const_value.nbytes for v in constants if v.name and v.dtype.is_integer()]

    pairs = 64 * 64  # of the tokens of such an image
    assert sum(size == 8 * pairs for size in tables()) == 4
    keep_weights_single(graph)
    assert max(tables()) == pairs and tables().count(pairs) == 1
    pixels = torch.rand(2, 3, 128, 128) * 255
    with torch.no_grad():
        (expected,) = module(pixels)
    assert apart(run(ir.to_proto(graph).SerializeToString(), pixels), expected) < 1e-5


@pytest.mark.parametrize("name", ["halvit", "half_resnet", "mini_swin"])
def test_dense_twins_share_nothing(name: str) -> None:
    module = exportable(small_classifier(name, dense=True))
    graph = make_graph(module, (SIDE, SIDE), any_size=False, any_batch=True)
    assert keep_weights_single(graph) == ()
    pixels = torch.rand(2, 3, SIDE, SIDE) * 255
    with torch.no_grad():
        (expected,) = module(pixels)
    out = run(ir.to_proto(graph).SerializeToString(), pixels)
    assert apart(out, expected) < 1e-5
