"""Exporting: the file is kept only if it does what the model does."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from halvit_mm.deploy import export as export_module
from halvit_mm.deploy.export import Exported, export_onnx
from halvit_mm.deploy.runtime import OnnxModel
from halvit_mm.errors import UserError
from halvit_mm.files import staged_files
from halvit_mm.inference.models import LoadedModel


@pytest.fixture(scope="module")
def exported(classifier: LoadedModel, pictures: list[np.ndarray], tmp_path_factory) -> Exported:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    return export_onnx(classifier, path, images=pictures)


def test_what_an_export_says(exported: Exported) -> None:
    assert exported.file_bytes == exported.path.stat().st_size
    assert exported.weight_bytes < exported.file_bytes < exported.weight_bytes + 60_000
    assert exported.dense_bytes > 1.3 * exported.weight_bytes
    assert len(exported.shared) == 6
    assert exported.check.agrees and exported.check.images == 3
    assert 0 < exported.check.largest < 1e-4
    summary = exported.summary()
    ratio = exported.file_bytes / exported.dense_bytes
    assert f"{ratio:.3f} of that" in summary and "6 weights are used more than once" in summary


def test_the_model_stays_as_it_was(
    classifier: LoadedModel, pictures: list[np.ndarray], exported: Exported
) -> None:
    # The exported copy has its norms folded and its modules in other places.
    assert type(classifier.model).__name__ == "ImageClassifier"
    assert not classifier.model.training
    onnx.checker.check_model(str(exported.path), full_check=True)


def test_weights_in_a_second_file(
    classifier: LoadedModel, pictures: list[np.ndarray], tmp_path: Path, exported: Exported
) -> None:
    path = tmp_path / "model.onnx"
    apart = export_onnx(classifier, path, images=pictures[:1], external_data=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < 0.6 * exported.file_bytes
    assert apart.file_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in list(tmp_path.glob("model.onnx*")):
        shutil.move(file, moved)
    expected = OnnxModel(exported.path).predict(pictures)
    for a, b in zip(OnnxModel(moved / "model.onnx").predict(pictures), expected, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)


def test_a_backbone_for_all_sizes(
    detector: LoadedModel, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    done = export_onnx(
        detector, tmp_path / "b.onnx", images=pictures, part="backbone", any_size=True
    )
    assert done.check.agrees and done.dense_bytes is None
    model = OnnxModel(tmp_path / "b.onnx")
    assert model.task == "features" and model.classes == ()
    (feature,) = model.features(pictures[1])
    assert feature.shape == (1, 32, 4, 3)
    with pytest.raises(UserError, match="a backbone without a head"):
        model.predict(pictures)


def test_a_model_that_does_something_else_is_not_kept(
    classifier: LoadedModel, pictures: list[np.ndarray], tmp_path: Path, monkeypatch
) -> None:
    def spoil(model, *args):
        weight = model.graph.initializers["backbone.blocks.1.ffn.weight"]
        weight.const_value = export_module.ir.Tensor(weight.const_value.numpy() * 1.01)
        return keep(model, *args)

    keep = export_module.keep_weights_single
    monkeypatch.setattr(export_module, "keep_weights_single", spoil)
    with pytest.raises(UserError, match="something else than in PyTorch\noutputs are at most"):
        export_onnx(classifier, tmp_path / "model.onnx", images=pictures)
    assert list(tmp_path.iterdir()) == []


def test_a_doubled_weight_is_not_kept(
    classifier: LoadedModel, pictures: list[np.ndarray], tmp_path: Path, monkeypatch
) -> None:
    def fold(node) -> bool:
        return node.op_type == "Transpose" or None

    monkeypatch.setattr(export_module, "_folds", fold)
    with pytest.raises(UserError, match="more than once"):
        export_onnx(classifier, tmp_path / "model.onnx", images=pictures)
    assert list(tmp_path.iterdir()) == []


def test_refusals(
    classifier: LoadedModel, detector: LoadedModel, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    taken = tmp_path / "taken.onnx"
    taken.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export_onnx(classifier, taken, images=pictures)
    assert taken.read_text() == "mine"
    with pytest.raises(UserError, match="no image to check"):
        export_onnx(classifier, tmp_path / "a.onnx", images=[])
    with pytest.raises(UserError, match="one image at a time"):
        export_onnx(detector, tmp_path / "a.onnx", images=pictures, any_batch=True)


def test_staged_files_move_together_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a" / "model.onnx"
    with staged_files(target) as path:
        path.write_text("graph")
        path.with_name("model.onnx.data").write_text("weights")
        assert not target.exists()
    assert {f.name for f in target.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    with pytest.raises(RuntimeError), staged_files(target) as path:
        path.write_text("other")
        raise RuntimeError
    assert target.read_text() == "graph"
    assert {f.name for f in target.parent.iterdir()} == {"model.onnx", "model.onnx.data"}


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 128 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(classifier: LoadedModel, pictures: list[np.ndarray], small_disk: Path) -> None:
    with pytest.raises(UserError, match="No space left on device"):
        export_onnx(classifier, small_disk / "model.onnx", images=pictures)
    assert list(small_disk.iterdir()) == []
