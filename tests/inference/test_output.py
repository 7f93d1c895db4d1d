"""Results on disk: COCO's own reader joins them, masks come back, nothing is mixed."""

import contextlib
import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.mask import decode

from halvit_mm.errors import UserError
from halvit_mm.inference import Classification, Detections
from halvit_mm.inference.coco import category_ids, instance_map
from halvit_mm.inference.lists import Seen
from halvit_mm.inference.output import OutputFolder

SIZE = (40, 60)
IMAGE = np.full((*SIZE, 3), 100, np.uint8)


def detections(count: int = 3, *, masks: bool = True, classes=("cat", "dog")) -> Detections:
    """Squares that overlap, each 4 pixels further to the right."""
    shapes = np.zeros((count, *SIZE), bool)
    for i in range(count):
        shapes[i, 5:15, 4 * i % 40 : 4 * i % 40 + 10] = True
    lefts = 4 * np.arange(count) % 40
    return Detections(
        boxes=np.stack([lefts, 0 * lefts + 5, lefts + 10, 0 * lefts + 15], 1).astype(np.float32),
        scores=np.linspace(0.9, 0.3, count).astype(np.float32),
        labels=np.arange(count) % len(classes),
        masks=shapes if masks else None,
        size=SIZE,
        classes=classes,
    )


def classification() -> Classification:
    scores = np.array([0.1, 0.6, 0.3], np.float32)
    return Classification(scores=scores, size=SIZE, classes=("cat", "dog", "cow"))


def seen(name: str, frame: int | None = None) -> Seen:
    return Seen(path=Path("in") / f"{name}.png", name=name, frame=frame)


def write(root: Path, *results, **options) -> dict[str, str]:
    """Writes results of images named 0, 1, … and returns the lists."""
    output = OutputFolder(root, **options)
    output.start()
    for i, result in enumerate(results):
        output.add(seen(str(i)), IMAGE, result)
    output.finish(whole=True)
    return {path.name: path.read_text() for path in root.iterdir() if path.is_file()}


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_cocos_own_reader_joins_the_lists(tmp_path):
    write(tmp_path / "out", detections(), detections(0), detections(2))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "out/images.json").loadRes(str(tmp_path / "out/results.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        *("in/0.png", "in/1.png", "in/2.png")
    ]
    assert [len(coco.getAnnIds(imgIds=[i])) for i in coco.getImgIds()] == [3, 0, 2]
    second = coco.loadAnns(coco.getAnnIds(imgIds=[1]))[1]
    assert second["bbox"] == [4, 5, 10, 10]
    assert coco.cats[second["category_id"]]["name"] == "dog"
    assert second["score"] == pytest.approx(0.6)
    assert (coco.annToMask(second) == detections().masks[1]).all()


def test_masks_as_images_count_the_objects_best_first(tmp_path):
    found = detections()
    lists = write(tmp_path / "out", found, masks="png")
    numbers = np.asarray(Image.open(tmp_path / "out/masks/0.png"))
    assert numbers.dtype == np.uint8
    assert (numbers[10, [0, 4, 9, 10, 13, 14, 17, 18]] == [1, 1, 1, 2, 2, 3, 3, 0]).all()
    assert "segmentation" not in lists["results.json"]


def test_more_objects_than_a_byte_counts(tmp_path):
    found = detections(300)
    write(tmp_path / "out", found, masks="both")
    numbers = np.asarray(Image.open(tmp_path / "out/masks/0.png"))
    assert numbers.max() == instance_map(found).max()
    assert instance_map(found).dtype == np.uint16
    # Every tenth one stands where the first ten do, so that these alone show.
    assert set(np.unique(numbers)) == set(range(11))
    last = Detections(**{**vars(found), "masks": np.roll(found.masks, 9 * 30, axis=0)})
    assert instance_map(last).dtype == np.uint16


def test_the_number_of_the_300th_object_is_300(tmp_path):
    found = detections(300)
    found.masks[299, 30:35, 50:55] = True
    write(tmp_path / "out", found, masks="png")
    assert np.asarray(Image.open(tmp_path / "out/masks/0.png"))[32, 52] == 300


@pytest.mark.parametrize(("masks", "rle", "png"), [("both", 1, 1), ("none", 0, 0), ("rle", 1, 0)])
def test_masks_go_where_they_are_wanted(tmp_path, masks, rle, png):
    lists = write(tmp_path / "out", detections(1), masks=masks)
    entry = json.loads(lists["results.json"])[0]
    assert ("segmentation" in entry) == bool(rle)
    assert (tmp_path / "out/masks/0.png").exists() == bool(png)
    if rle:
        assert (decode(entry["segmentation"]) == detections(1).masks[0]).all()


def test_a_detector_without_masks(tmp_path):
    lists = write(tmp_path / "out", detections(1, masks=False), masks="both")
    assert set(json.loads(lists["results.json"])[0]) == {
        *("image_id", "category_id", "bbox", "score")
    }
    assert files(tmp_path / "out") == {*lists, "pictures/0.jpg"}


def test_the_table_has_a_row_for_each_object(tmp_path):
    lists = write(tmp_path / "out", detections(2), detections(0), detections(1, masks=False))
    rows = list(csv.DictReader(io.StringIO(lists["summary.csv"])))
    assert [row["file"] for row in rows] == ["in/0.png", "in/0.png", "in/2.png"]
    assert list(rows[1].values()) == [
        *("in/0.png", "", "dog", "0.3", "4.0", "5.0", "14.0", "15.0", "100")
    ]
    assert rows[2]["mask_area"] == ""


def test_classifiers_have_their_likeliest_classes(tmp_path):
    lists = write(tmp_path / "out", classification(), top_k=2)
    (entry,) = json.loads(lists["results.json"])
    assert entry["top"] == [
        {"class": "dog", "index": 1, "score": 0.6},
        {"class": "cow", "index": 2, "score": 0.3},
    ]
    assert (entry["file_name"], entry["width"], entry["height"]) == ("in/0.png", 60, 40)
    (row,) = csv.reader(io.StringIO(lists["summary.csv"].split("\n", 1)[1]))
    assert row == ["in/0.png", "", "dog", "0.6", "cow", "0.3"]
    assert "categories" not in json.loads(lists["images.json"])


def test_frames_of_a_video_become_a_video(tmp_path):
    from halvit_mm.inference.videos import Video

    output = OutputFolder(tmp_path / "out")
    output.start()
    with output.video("clips/a", 5.0):
        for frame in (0, 2, 4):
            output.add(seen(f"clips/a/{frame:06}", frame), IMAGE, detections(1))
    output.add(seen("b"), IMAGE, detections(1))
    output.finish(whole=True)
    assert len(list(Video(tmp_path / "out/pictures/clips/a.mp4"))) == 3
    assert (tmp_path / "out/pictures/b.jpg").exists()
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert [image.get("frame") for image in images] == [0, 2, 4, None]


def test_without_pictures(tmp_path):
    output = OutputFolder(tmp_path / "out", pictures=False)
    output.start()
    with output.video("a", 5.0):
        output.add(seen("a/0", 0), IMAGE, detections(1))
    output.add(seen("b"), IMAGE, detections(1))
    output.finish(whole=True)
    assert files(tmp_path / "out") == {"results.json", "images.json", "summary.csv"}


def test_names_of_files_that_are_no_text(tmp_path):
    name = os.fsdecode(b"\xff\xfe")
    output = OutputFolder(tmp_path / "out")
    output.start()
    output.add(seen(name), IMAGE, detections(1))
    output.finish(whole=True)
    assert (tmp_path / f"out/pictures/{name}.jpg").exists()
    assert b"\nin/\xff\xfe.png," in (tmp_path / "out/summary.csv").read_bytes()
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert images[0]["file_name"] == f"in/{name}.png"


def test_ids_of_classes():
    assert category_ids(("a", "b", "c")) == (1, 2, 3)
    from mmdet.datasets import CocoDataset

    ids = category_ids(CocoDataset.METAINFO["classes"])
    assert (ids[0], ids[11], ids[79]) == (1, 13, 90)


def test_ids_of_cocos_classes_are_cocos(test_data):
    from mmdet.datasets import CocoDataset

    content = json.loads((test_data / "coco_by/annotations/instances_val.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    classes = CocoDataset.METAINFO["classes"]
    assert tuple(names[i] for i in category_ids(classes)) == classes


def test_a_run_is_unfinished_until_its_end(tmp_path):
    output = OutputFolder(tmp_path / "out")
    output.start()
    output.add(seen("0"), IMAGE, detections(1))
    assert files(tmp_path / "out") == {"results.part.json", "pictures/0.jpg"}
    output.finish(whole=False)
    assert files(tmp_path / "out") == {
        *("results.part.json", "images.part.json", "summary.part.csv", "pictures/0.jpg")
    }
    assert len(json.loads((tmp_path / "out/results.part.json").read_text())) == 1


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/holiday.jpg").touch()
    with pytest.raises(
        UserError, match=r"the folder is not empty; name another one, or add --over"
    ):
        OutputFolder(tmp_path / "out")
    with pytest.raises(UserError, match="there are other things than predictions in this folder"):
        OutputFolder(tmp_path / "out", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="this is a file; name a folder"):
        OutputFolder(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write there"):
        OutputFolder("/proc/1/out")
    assert files(tmp_path) == {"out/holiday.jpg", "file"}


@pytest.mark.parametrize("whole", [True, False])
def test_earlier_results_go_away_and_nothing_else_does(tmp_path, whole):
    root = tmp_path / "out"
    output = OutputFolder(root, masks="png")
    output.start()
    output.add(seen("old"), IMAGE, detections(1))
    output.finish(whole=whole)
    (root / "notes.txt").write_text("mine")
    write(root, detections(1), overwrite=True)
    assert files(root) == {
        *("notes.txt", "pictures/0.jpg", "results.json", "images.json", "summary.csv")
    }


def test_an_error_leaves_whole_files_only(tmp_path, monkeypatch):
    output = OutputFolder(tmp_path / "out")
    output.start()
    output.add(seen("0"), IMAGE, detections(1))

    def fail(self, file, *args, **kwargs):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match=r"1\.jpg: cannot write it \(No space left on device\)"):
        output.add(seen("1"), IMAGE, detections(1))
    assert files(tmp_path / "out") == {"results.part.json", "pictures/0.jpg"}
