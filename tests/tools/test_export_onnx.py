"""tools/export_onnx.py and tools/measure_onnx.py as processes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, detector_config, make_coco, make_folders

from halvit_mm.deploy import OnnxModel


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("export")
    config = classifier_config(folder / "config.py", make_folders(folder / "data"))
    return config, save_initial(config, folder / "weights.pth", classes=CLASSES)


def export(root: Path, cwd: Path, *arguments: object) -> tuple[int, str, str]:
    return run([sys.executable, root / "tools/export_onnx.py", *arguments], cwd)


def test_export_and_measure(root: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    status, out, errors = export(root, tmp_path, *files, "model.onnx")
    assert status == 0, errors
    assert "outputs are at most" in out and "6 weights are used more than once" in out
    model = OnnxModel(tmp_path / "model.onnx")
    image = np.full((32, 32, 3), 200, np.uint8)
    assert model.predict([image])[0].scores.shape == (2,)

    measure = [sys.executable, root / "tools/measure_onnx.py", "model.onnx", "model.onnx:speed"]
    status, out, errors = run([*measure, "--rounds", "2", "--out", "m.json"], tmp_path)
    assert status == 0, errors
    assert "model.onnx, prefer speed" in out
    content = json.loads((tmp_path / "m.json").read_text())
    assert [m["prefer"] for m in content["models"]] == ["memory", "speed"]
    assert content["models"][0]["path"] == "model.onnx"
    assert content["models"][0]["file_bytes"] == (tmp_path / "model.onnx").stat().st_size


def test_a_detector_and_predict(root: Path, tmp_path: Path) -> None:
    config = detector_config(tmp_path / "config.py", make_coco(tmp_path / "data"))
    with config.open("a") as file:
        file.write('\nmodel["test_cfg"]["score_thr"] = 0.0\n')
    weights = save_initial(config, tmp_path / "weights.pth", classes=CLASSES)
    images = tmp_path / "data" / "images"
    status, out, errors = export(root, tmp_path, config, weights, "d.onnx", "--images", images)
    assert status == 0, errors
    assert "40 of 40 boxes are as in PyTorch on 4 images" in out
    predict = [sys.executable, root / "tools/predict.py", config, "d.onnx", images]
    status, out, errors = run([*predict, "--out", "found", "--score-threshold", "0"], tmp_path)
    assert status == 0, errors
    assert len(json.loads((tmp_path / "found" / "results.json").read_text())) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py", "w.pth", "a.onnx"], "missing.py"),
        (["CONFIG", "missing.pth", "a.onnx"], "missing.pth: there is no such checkpoint"),
        (["CONFIG", "CKPT", "taken.onnx"], "taken.onnx: this exists already"),
        (["CONFIG", "CKPT", "a.onnx", "--images", "empty"], "there is no image"),
        (["CONFIG", "CKPT", "a.onnx", "--images", "bad"], "no image that can be read"),
    ],
)
def test_mistakes_are_one_sentence(
    root: Path, files: tuple[Path, Path], tmp_path: Path, arguments: list, message: str
) -> None:
    (tmp_path / "taken.onnx").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no image")
    names = dict(CONFIG=files[0], CKPT=files[1])
    before = sorted(tmp_path.iterdir())
    status, _, errors = export(root, tmp_path, *(names.get(a, a) for a in arguments))
    assert status == 2
    assert message in errors and errors.count("error: ") == 1 and "Traceback" not in errors
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken.onnx").read_text() == "mine"


def test_another_models_checkpoint(root: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    other = classifier_config(tmp_path / "other.py", files[0].parent / "data", dim=64)
    status, _, errors = export(root, tmp_path, other, files[1], "a.onnx")
    assert status == 2 and "the checkpoint is of another model" in errors
    assert "Traceback" not in errors and not (tmp_path / "a.onnx").exists()


def test_measuring_what_is_not_there(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for model, message in (
        ("missing.onnx", "there is no such model"),
        ("a.png", "onnxruntime cannot read this model"),
        ("timm:no_such_model", "timm has no such model"),
    ):
        status, _, errors = run([sys.executable, root / "tools/measure_onnx.py", model], tmp_path)
        assert status == 2 and message in errors and "Traceback" not in errors
