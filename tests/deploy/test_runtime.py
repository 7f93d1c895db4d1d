"""Exported models at work: the same results as in PyTorch, without PyTorch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from halvit_mm.deploy.export import export_onnx
from halvit_mm.deploy.runtime import OnnxModel
from halvit_mm.errors import UserError
from halvit_mm.inference import Classifier, Detector
from halvit_mm.inference.models import LoadedModel

pytestmark = pytest.mark.xdist_group("runtime")  # its exports are made once


@pytest.fixture(scope="module")
def classifier_file(classifier: LoadedModel, pictures, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "classifier.onnx"
    export_onnx(classifier, path, images=pictures)
    return path


@pytest.fixture(scope="module")
def detector_file(detector: LoadedModel, pictures, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "detector.onnx"
    export_onnx(detector, path, images=pictures)
    return path


def test_a_classifier(classifier_files, classifier_file: Path, pictures) -> None:
    model, ours = OnnxModel(classifier_file, threads=1), Classifier(*classifier_files)
    assert model.classes == ours.classes == ("dark", "light")
    assert (model.task, model.precision) == ("classification", "fp32")
    for got, expected in zip(model.predict(pictures), ours(pictures), strict=True):
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
        assert got.size == expected.size
        assert abs(got.scores.sum() - 1) < 1e-6


def test_a_detector(detector_files, detector_file: Path, pictures) -> None:
    model, ours = OnnxModel(detector_file), Detector(*detector_files, score_threshold=0)
    for got, expected in zip(model(pictures), ours(pictures), strict=True):
        assert len(got) == len(expected) == 10
        np.testing.assert_allclose(got.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
        np.testing.assert_array_equal(got.labels, expected.labels)
        assert got.masks is None and got.size == expected.size
    (everything,) = model.predict(pictures[:1])
    least = float(np.median(everything.scores))
    (some,) = OnnxModel(detector_file, score_threshold=least).predict(pictures[:1])
    np.testing.assert_array_equal(some.boxes, everything.above(least).boxes)
    assert 0 < len(some) < 10


def test_files_and_single_images(classifier_file: Path, pictures, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(pictures[0]).save(file)
    model = OnnxModel(classifier_file)
    of_file, of_array = model(file), model(pictures[0])
    np.testing.assert_array_equal(of_file.scores, of_array.scores)
    with pytest.raises(UserError, match="no such"):
        model(tmp_path / "missing.png")


def test_speed_gives_the_same(classifier_file: Path, pictures) -> None:
    (slow,), (fast,) = (
        OnnxModel(classifier_file, prefer=prefer).predict(pictures[:1])
        for prefer in ("memory", "speed")
    )
    np.testing.assert_allclose(slow.scores, fast.scores, atol=1e-6)


def test_a_graph_for_one_size_refuses_others(classifier_file: Path) -> None:
    model = OnnxModel(classifier_file)
    assert model.input_shape[1:] == (3, 32, 32)
    with pytest.raises(UserError, match=r"not 1 × 3 × 40 × 32; .*--any-size"):
        model.run(np.zeros((1, 3, 40, 32), np.float32))


def test_bad_files(tmp_path: Path, classifier_file: Path) -> None:
    with pytest.raises(UserError, match="there is no such model"):
        OnnxModel(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("this is no model")
    with pytest.raises(UserError, match="onnxruntime cannot read this model"):
        OnnxModel(tmp_path / "text.onnx")
    data = classifier_file.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="onnxruntime cannot read this model"):
        OnnxModel(tmp_path / "cut.onnx")
    with pytest.raises(UserError, match="onnxruntime cannot read this model"):
        OnnxModel(tmp_path / "cut.onnx", prefer="speed")
    foreign = onnx.load(classifier_file)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="does not say what its model is for"):
        OnnxModel(tmp_path / "foreign.onnx")


_WITHOUT = """
import sys
for name in ("torch", "mmengine", "mmdet", "mmpretrain", "mmcv", "onnx"):
    sys.modules[name] = None  # as if it were not installed
from halvit_mm.deploy import OnnxModel
result = OnnxModel(sys.argv[1])(sys.argv[2])
print(type(result).__name__, len(result.scores))
"""


@pytest.mark.parametrize("name", ["classifier", "detector"])
def test_neither_torch_nor_openmmlab_is_needed(
    name: str, classifier_file: Path, detector_file: Path, pictures, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(pictures[0]).save(file)
    model = dict(classifier=classifier_file, detector=detector_file)[name]
    command = [sys.executable, "-c", _WITHOUT, str(model), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind = dict(classifier="Classification 2", detector="Detections 10")[name]
    assert done.stdout.split("\n")[0] == kind
