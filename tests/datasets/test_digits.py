"""The digits: same files for the same seed, exact masks, no source digit in both splits."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from sklearn.datasets import load_digits

from halvit_mm.datasets.digits import make_digits
from halvit_mm.errors import UserError


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_digits(tmp_path_factory.mktemp("data") / "digits", num_train=40, num_val=15)


def load(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def by_image(content: dict) -> dict[int, list[dict]]:
    groups: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        groups[annotation["image_id"]].append(annotation)
    return groups


def test_layout(digits: Path) -> None:
    for split, count in (("train", 40), ("val", 15)):
        content = load(digits, split)
        assert [c["name"] for c in content["categories"]] == list("0123456789")
        assert [c["id"] for c in content["categories"]] == list(range(1, 11))
        assert {i["file_name"] for i in content["images"]} == {
            p.name for p in (digits / split).iterdir()
        }
        assert len(content["images"]) == count
        for image in content["images"]:
            picture = cv2.imread(str(digits / split / image["file_name"]))
            assert picture.shape == (image["height"], image["width"], 3) == (128, 128, 3)


def test_same_seed_same_bytes(digits: Path, tmp_path: Path) -> None:
    again = make_digits(tmp_path / "again", num_train=40, num_val=15)
    files = sorted(p.relative_to(digits) for p in digits.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((digits / f).read_bytes() == (again / f).read_bytes() for f in files)

    other = make_digits(tmp_path / "other", num_train=40, num_val=15, seed=1)
    assert load(other, "train")["annotations"] != load(digits, "train")["annotations"]


def test_more_images_keep_the_first(digits: Path, tmp_path: Path) -> None:
    fewer = make_digits(tmp_path / "fewer", num_train=10, num_val=5)
    count = len(load(fewer, "train")["annotations"])
    assert load(fewer, "train")["annotations"] == load(digits, "train")["annotations"][:count]


def test_val_digits_are_held_out(tmp_path: Path) -> None:
    root = make_digits(tmp_path / "digits", num_train=250, num_val=60)
    labels = load_digits().target
    sources = {}
    for split in ("train", "val"):
        annotations = load(root, split)["annotations"]
        assert all(a["category_id"] == labels[a["source"]] + 1 for a in annotations)
        assert {a["category_id"] for a in annotations} == set(range(1, 11))
        sources[split] = {a["source"] for a in annotations}
    assert not sources["train"] & sources["val"]
    # All that can be drawn was drawn from: about 1437 and 360 of the 1797.
    assert len(sources["train"]) > 700 and 150 < len(sources["val"]) <= 360


def test_masks_and_boxes(digits: Path) -> None:
    counts, partial, heights = [], 0, []
    for split in ("train", "val"):
        for annotations in by_image(load(digits, split)).values():
            counts.append(len(annotations))
            masks = np.stack([coco_mask.decode(a["segmentation"]) for a in annotations])
            assert masks.sum(0).max() == 1, "visible parts do not overlap"
            for mask, annotation in zip(masks, annotations, strict=True):
                rows, columns = np.nonzero(mask)
                x, y, w, h = annotation["bbox"]
                assert (x, y) == (columns.min(), rows.min())
                assert (x + w, y + h) == (columns.max() + 1, rows.max() + 1)
                assert annotation["area"] == mask.sum() > 20
                assert annotation["iscrowd"] == 0
                heights.append(h)
            for i, first in enumerate(annotations):
                for second in annotations[i + 1 :]:
                    partial += boxes_overlap(first["bbox"], second["bbox"])
    assert min(counts) >= 3 and max(counts) == 7
    assert min(heights) < 25 and max(heights) > 50
    assert partial > 20, "digits lie over one another"


def boxes_overlap(a: list[float], b: list[float]) -> bool:
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))


def test_masks_match_the_pixels(digits: Path) -> None:
    """Inside a mask the picture has the stroke's colour; right outside it does not."""
    contrasts = []
    content = load(digits, "train")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for image_id, annotations in by_image(content).items():
        grey = cv2.imread(str(digits / "train" / names[image_id]), cv2.IMREAD_GRAYSCALE)
        grey = grey.astype(float)
        masks = [coco_mask.decode(a["segmentation"]) for a in annotations]
        anything = np.any(masks, axis=0)
        for mask in masks:
            inside = cv2.erode(mask, np.ones((3, 3))) > 0
            outside = (cv2.dilate(mask, np.ones((7, 7))) > 0) & ~anything
            outside &= cv2.dilate(mask, np.ones((3, 3))) == 0
            if inside.sum() > 10 and outside.sum() > 10:
                assert grey[inside].std() < 20, "one stroke, one colour"
                contrasts.append(abs(grey[inside].mean() - grey[outside].mean()))
    assert len(contrasts) > 100
    assert np.min(contrasts) > 25 and np.mean(contrasts) > 80


def test_a_classifier_recognises_them(digits: Path) -> None:
    """The visible masks, made small again, are the digits that their labels say."""
    glyphs, labels = load_digits(return_X_y=True)
    content = load(digits, "val")
    correct = []
    for annotation in content["annotations"]:
        x, y, w, h = (round(v) for v in annotation["bbox"])
        crop = coco_mask.decode(annotation["segmentation"])[y : y + h, x : x + w]
        canvas = np.zeros((h, max(h, w)), np.float32)
        left = (canvas.shape[1] - w) // 2
        canvas[:, left : left + w] = crop
        small = 16 * cv2.resize(canvas, (8, 8), interpolation=cv2.INTER_AREA).ravel()
        others = np.arange(len(glyphs)) != annotation["source"]
        nearest = np.argsort(((glyphs[others] - small) ** 2).sum(1))[:7]
        votes = np.bincount(labels[others][nearest], minlength=10)
        correct.append(votes.argmax() + 1 == annotation["category_id"])
    assert np.mean(correct) > 0.7, "chance is 0.1"


def test_a_set_that_is_there_is_kept(tmp_path: Path) -> None:
    root = make_digits(tmp_path / "digits", num_train=3, num_val=2)
    before = (root / "dataset.json").stat()
    make_digits(root, num_train=3, num_val=2)
    assert (root / "dataset.json").stat().st_ino == before.st_ino

    (root / "train" / "00002.png").unlink()
    make_digits(root, num_train=3, num_val=2)
    assert (root / "train" / "00002.png").is_file(), "an incomplete set is made anew"

    old = load(root, "train")["annotations"]
    make_digits(root, num_train=3, num_val=2, seed=1)
    assert load(root, "train")["annotations"] != old, "other arguments make it anew"
    assert [p.name for p in tmp_path.iterdir()] == ["digits"], "nothing is left beside it"


def test_the_users_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not a set of digits; choose another folder"):
        make_digits(tmp_path, num_train=1, num_val=1)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]

    (tmp_path / "dataset.json").write_text('["another program\'s"]')
    with pytest.raises(UserError, match="not a set of digits"):
        make_digits(tmp_path, num_train=1, num_val=1)


def test_failure_keeps_the_old_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_digits(tmp_path / "digits", num_train=3, num_val=2)
    old = (root / "annotations" / "instances_train.json").read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("halvit_mm.datasets.digits.write_instances", fail)
    with pytest.raises(UserError, match=r"cannot write .*digits: No space left on device"):
        make_digits(root, num_train=5, num_val=2)
    assert (root / "annotations" / "instances_train.json").read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 0}, "num_train=0"),
        ({"num_val": -1}, "num_val=-1"),
        ({"image_size": 64}, "image_size=64"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_digits(tmp_path / "digits", **arguments)
    assert not any(tmp_path.iterdir())


def test_command(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, root / "tools" / "make_digits.py"]
    done = subprocess.run(
        [*command, "digits", "--num-train", "3", "--num-val", "2", "--image-size", "160"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "digits") in done.stdout
    assert load(tmp_path / "digits", "train")["images"][2]["width"] == 160


def test_destination_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/digits: Not a directory; choose"):
        make_digits(tmp_path / "file" / "digits", num_train=1, num_val=1)
