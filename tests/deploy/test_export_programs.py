"""Programs of PyTorch: each weight stored once, and reloaded without this project."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from small_classifiers import CASES, SIDE, small_classifier
from torch import nn

from halvit_mm.deploy import export_programs
from halvit_mm.deploy.export_programs import check_single, export_program
from halvit_mm.deploy.operators import outside_core, strip, to_core
from halvit_mm.deploy.program_files import check_program, check_script
from halvit_mm.deploy.program_runtime import ProgramModel
from halvit_mm.deploy.programs import exportable, trace
from halvit_mm.deploy.sizes import weight_bytes
from halvit_mm.errors import UserError
from halvit_mm.inference.models import LoadedModel
from halvit_mm.inference.pipeline import prepare

pytestmark = pytest.mark.xdist_group("programs")  # its exports are made once

#: Runs a file in a process that knows PyTorch alone.
ALONE = """
import json, sys
import numpy as np, torch, torchvision
path, pixels, out = sys.argv[1:]
if path.endswith(".pt2"):
    extra = {"halvit_mm": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["halvit_mm"])["classes"] == ["dark", "light"]
else:
    program = torch.jit.load(path)
with torch.no_grad():
    outputs = program(torch.from_numpy(np.load(pixels)))
np.savez(out, *[o.numpy() for o in outputs])
assert not {"halvit_mm", "mmengine", "mmdet", "mmpretrain", "mmcv"} & set(sys.modules)
"""


def run_alone(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    np.save(path.with_name("pixels.npy"), pixels)
    arguments = [path.name, "pixels.npy", "out.npz"]
    command = [sys.executable, "-I", "-c", ALONE, *arguments]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(np.load(path.with_name("out.npz")).values())


@pytest.mark.parametrize(
    ("name", "core_aten"),
    [("a.pt2", False), ("a.pt2", True), ("a.pt", False), ("a.torchscript", False)],
)
def test_a_classifier_gives_the_same_without_this_project(
    classifier: LoadedModel, pictures: list[np.ndarray], tmp_path: Path, name, core_aten
):
    done = export_program(classifier, tmp_path / name, images=pictures, core_aten=core_aten)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert done.check.agrees and done.check.images == len(pictures)
    assert done.file_bytes == done.path.stat().st_size
    assert done.weight_bytes == weight_bytes(classifier.model) < done.dense_bytes
    assert done.outside_core == ({} if core_aten else None)
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = exportable(classifier.model)(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(run_alone(tmp_path / name, pixels)[0], expected, atol=1e-5)

    found = ProgramModel(tmp_path / name)
    assert (found.task, found.classes) == ("classification", ("dark", "light"))
    own = classifier.model.test_step(prepare(classifier, pictures))
    for result, sample in zip(found.predict(pictures), own, strict=True):
        np.testing.assert_allclose(result.scores, sample.pred_score.detach().numpy(), atol=1e-5)


def blobs(path: Path) -> dict[str, int]:
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["export", "core", "script"])
def test_each_weight_of_every_backbone_is_in_the_file_once(tmp_path: Path, name: str, form: str):
    module = exportable(small_classifier(name)).requires_grad_(False)
    stored = weight_bytes(module)
    images = torch.rand(3, 3, SIDE, SIDE) * 255
    if form == "script":
        path = tmp_path / "a.pt"
        export_programs._save_script(module, (SIDE, SIDE), path, {"halvit_mm": "x"})
        check_script(path)
        reloaded = torch.jit.load(path)
        weights = sum(size for file, size in blobs(path).items() if "/data/" in file)
        constants = sum(size for file, size in blobs(path).items() if "/constants/" in file)
    else:
        path = tmp_path / "a.pt2"
        program = trace(module, (SIDE, SIDE), any_size=False, any_batch=True)
        program = to_core(program) if form == "core" else program
        export_programs._save_program(program, path, {"halvit_mm": "x"})
        check_program(path)
        program = torch.export.load(path)
        reloaded = program.module()
        weights = sum(size for file, size in blobs(path).items() if "/data/weights/weight_" in file)
        constants = sum(size for file, size in blobs(path).items() if "/tensor_" in file)
        assert form == "export" or outside_core(program) == {}
    # Buffers that no checkpoint has are tables of indices and the colours' scale.
    assert stored <= weights <= stored + 200_000 and constants <= 0.1 * stored + 100_000
    assert str(Path(export_programs.__file__).parent).encode() not in path.read_bytes()
    with torch.no_grad():
        for got, expected in zip(reloaded(images), module(images), strict=True):
            torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("core_aten", [False, True])
def test_a_detector_for_all_sizes_and_for_images_without_objects(
    detector: LoadedModel, pictures: list[np.ndarray], tmp_path: Path, core_aten: bool
):
    path = tmp_path / "a.pt2"
    done = export_program(detector, path, images=pictures, core_aten=core_aten)
    assert done.check.agrees and done.check.matched >= 10
    if core_aten:
        assert all("torchvision" in name or "max" in name for name in done.outside_core)
    found = ProgramModel(path)
    assert found.input_shape == (1, 3, "height", "width")
    for image in pictures:
        expected = detector.model.test_step(prepare(detector, [image]))[0].pred_instances
        (got,) = found.predict([image])
        np.testing.assert_allclose(got.scores, expected.scores.detach().numpy(), atol=1e-4)
    module = exportable(detector.model)
    for height, width in ((96, 64), (33, 17), (24, 200), (80, 112)):
        pixels = np.random.default_rng(0).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
        with torch.no_grad():
            expected = [out.numpy() for out in module(torch.from_numpy(pixels))]
        for got, own in zip(found.run(pixels).values(), expected, strict=True):
            np.testing.assert_allclose(got, own, atol=1e-2)
    for got, own in zip(run_alone(path, pixels), expected, strict=True):
        np.testing.assert_allclose(got, own, atol=1e-2)
    with pytest.raises(UserError, match="does not take images of 16 × 16 pixels"):
        found.run(pixels[..., :16, :16])


@pytest.mark.parametrize("threshold", [0.0, 0.999])
def test_assertions_on_how_much_is_found_are_gone(threshold: float):
    class Finder(nn.Module):
        def forward(self, x):
            (index,) = torch.nonzero(x.flatten() > threshold, as_tuple=True)
            return (x.flatten()[index].reshape(-1, 1) * torch.ones(2),)

    program = torch.export.export(Finder(), (torch.rand(1, 3, 8, 8),))
    strip(program)
    assert "assert" not in str(program.graph)
    for x in (torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), torch.eye(8).expand(1, 3, 8, 8)):
        torch.testing.assert_close(program.module()(x), Finder()(x))


def test_a_backbone_for_all_sizes(
    detector: LoadedModel, pictures: list[np.ndarray], tmp_path: Path
):
    done = export_program(
        detector, tmp_path / "a.pt2", images=pictures, part="backbone", any_size=True
    )
    assert done.check.agrees and done.dense_bytes is None
    assert done.weight_bytes < weight_bytes(detector.model)
    found = ProgramModel(tmp_path / "a.pt2")
    assert found.task == "features"
    with pytest.raises(UserError, match="without a head"):
        found.predict(pictures)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("a.bin", {}, r"name the file \*\.pt2 or"),
        ("a.pt", {}, r"a\.pt: TorchScript takes down .* name the file \*\.pt2"),
        ("a.pt", dict(part="backbone", core_aten=True), "--core-aten does not go with TorchScript"),
        ("a.pt", dict(part="backbone", any_size=True), "--any-size does not go with TorchScript"),
        ("a.pt2", dict(part="backbone"), "different sizes; pass --any-size"),
        ("a.pt2", dict(images=[]), "no image to check"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(
    detector: LoadedModel, pictures: list[np.ndarray], tmp_path: Path, name, options, reason
):
    with pytest.raises(UserError, match=reason):
        export_program(detector, tmp_path / name, **{"images": pictures, **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.pt2", "a.pt"])
@pytest.mark.parametrize("fault", ["outputs", "batch", "twice"])
def test_a_wrong_program_is_not_kept(
    classifier: LoadedModel, pictures: list[np.ndarray], tmp_path: Path, monkeypatch, name, fault
):
    run = ProgramModel._run

    def wrong(self, pixels):
        outputs = run(self, pixels)
        wanted = fault == "outputs" or (fault == "batch" and len(pixels) == 3)
        return [out + 0.01 * wanted for out in outputs]

    monkeypatch.setattr(ProgramModel, "_run", wrong)
    if fault == "twice":
        load = f"_load_{'program' if name == 'a.pt2' else 'script'}"
        original = getattr(sys.modules[ProgramModel.__module__], load)

        def doubled(path):
            program, tensors, about = original(path)
            largest = max(tensors, key=torch.numel)
            return program, [*tensors, largest.flip(0)], about

        monkeypatch.setattr(sys.modules[ProgramModel.__module__], load, doubled)
    with pytest.raises(UserError, match="more than once" if fault == "twice" else "not written"):
        export_program(classifier, tmp_path / name, images=pictures)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_told_apart_from_copies_of_them():
    weight = torch.rand(64, 32)
    check_single([weight, torch.rand(64, 32), torch.ones(64, 32), torch.ones(64, 32)], 10**6, 10**6)
    for copy in (weight, weight.t(), weight.reshape(8, 256), weight.flip(0)):
        with pytest.raises(UserError, match="more than once"):
            check_single([weight, copy], 10**6, 10**6)
    with pytest.raises(UserError, match="bytes for weights of"):
        check_single([weight], 10**8, 2 * 10**8)


def test_an_existing_file_stays(classifier, pictures, tmp_path):
    (tmp_path / "a.pt2").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        export_program(classifier, tmp_path / "a.pt2", images=pictures)
    assert (tmp_path / "a.pt2").read_text() == "precious"


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="there is no such model"):
        ProgramModel(tmp_path / "absent.pt2")
    for name in ("a.pt2", "a.pt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
        with pytest.raises(UserError, match=rf"{name}: PyTorch cannot read this program") as caught:
            ProgramModel(tmp_path / name)
        assert "\n" not in str(caught.value)
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.ones(1)), tmp_path / "other.pt")
    with pytest.raises(UserError, match="export it with"):
        ProgramModel(tmp_path / "other.pt")


def test_the_file_says_what_happens_to_images(classifier, pictures, tmp_path):
    export_program(classifier, tmp_path / "a.pt2", images=pictures)
    extra = {"halvit_mm": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    about = json.loads(extra["halvit_mm"])
    assert about["input"] == ["batch", 3, 32, 32] and about["outputs"] == ["logits"]
    assert [step["kind"] for step in about["preprocessing"]] == [
        step.kind for step in ProgramModel(tmp_path / "a.pt2").steps
    ]
