"""`tools/check_dataset.py` as a whole process."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from PIL import Image
from processes import run


@pytest.fixture
def tool(root: Path) -> list:
    return [sys.executable, root / "tools/check_dataset.py"]


def edit(file: Path, **changes: dict) -> None:
    """Changes annotations by their place in the list."""
    content = json.loads(file.read_text())
    for number, change in changes.items():
        content["annotations"][int(number[1:])].update(change)
    file.write_text(json.dumps(content))


def test_a_spoilt_config_gives_all_faults_at_once(tool: list, tmp_path: Path) -> None:
    data = tiny_runs.make_coco(tmp_path / "data", images=6)
    config = tiny_runs.detector_config(tmp_path / "config.py", data)
    negative, beyond = dict(bbox=[30, 30, -10, 10]), dict(bbox=[50, 50, 40, 40])
    edit(data / "annotations.json", _1=negative, _2=negative, _3=beyond, _4=dict(iscrowd=7))
    (data / "images" / "3.png").unlink()
    Image.new("RGB", (32, 64)).save(data / "images" / "4.png")
    command = [*tool, config, "--json", "report.json", "--pictures", "faults"]
    status, output, errors = run(command, tmp_path)
    assert status == 2, errors
    assert "Traceback" not in errors
    for option in ("train_dataloader.dataset", "val_dataloader.dataset"):
        assert output.count(f"{option}: ") == 1
    assert "refused: boxes of negative width or height (2): write the box as" in output
    assert "annotation 1 of image 0 has the box [30, 30, -10, 10], its image 64 × 64" in output
    assert "dealt with: boxes that reach beyond the image (1)" in output
    assert "images/3.png does not exist" in output
    assert "images/4.png has 32 × 64 pixels, its entry says 64 × 64 pixels" in output
    assert output.rstrip().endswith("refused: correct what is named above")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["status"] == 2
    train, val = report["sets"]
    assert (train["images"], train["annotations"]) == (6, 12)
    assert train["classes"] == dict(dark=6, light=6)
    counts = {"negative size": 2, "crowd flag": 1, "missing image": 1, "other size": 1}
    assert train["refused"] == val["refused"] == counts
    assert train["handled"] == {"id 0": 1, "box beyond": 1}
    faults = [fault for fault in train["faults"] if fault["kind"] == "negative size"]
    assert [fault["annotation_id"] for fault in faults] == [1, 2]
    for name in ("train_dataloader.dataset.png", "val_dataloader.dataset.png"):
        page = np.asarray(Image.open(tmp_path / "faults" / name))
        orange = (page == (213, 94, 0)).all(-1).sum()
        assert orange > 500, "boxes are drawn"


def test_a_sound_file_and_one_with_what_rules_deal_with(tool: list, tmp_path: Path) -> None:
    data = tiny_runs.make_coco(tmp_path / "data")
    file = data / "annotations.json"
    edit(file, _0=dict(id=99))
    command = [*tool, file, "--images", data / "images", "--strict", "--decode"]
    status, output, _ = run(command, tmp_path)
    assert status == 0
    assert "4 images, 8 annotations, 2 classes: 'dark' 4, 'light' 4\n  nothing is wrong" in output
    edit(file, _0=dict(bbox=[10, 10, 0, 10]))
    status, output, _ = run(command, tmp_path)
    assert status == 2 and "boxes less than a pixel wide or high (1)" in output
    status, output, _ = run([*tool, file], tmp_path)
    assert status == 0 and "training can begin" in output
    assert "note: image files are looked at with --images FOLDER" in output


def test_folders_of_classes_and_errors(tool: list, tmp_path: Path) -> None:
    data = tiny_runs.make_folders(tmp_path / "data")
    config = tiny_runs.classifier_config(tmp_path / "config.py", data)
    (data / "dark" / "dark_1.png").write_bytes(b"")
    status, output, _ = run([*tool, config], tmp_path)
    assert status == 2
    assert "8 images, 2 classes: 'dark' 4, 'light' 4" in output
    assert "dark_1.png cannot be read (empty file)" in output
    for source in ("absent.json", "absent.py"):
        status, output, errors = run([*tool, source], tmp_path)
        assert status == 2 and "Traceback" not in errors and "absent" in output + errors
