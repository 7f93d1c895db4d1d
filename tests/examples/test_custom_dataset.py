"""The example of a detector on data of one's own."""

import json
import re
import sys
import textwrap
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from example_folders import (
    commands,
    copied,
    execute,
    in_one_process,
    module,
    program,
)
from processes import run

from halvit_mm.analysis import count_model
from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError

make = module("custom_dataset/make_blood_cells.py")
convert = module("custom_dataset/voc_to_coco.py")

SHORTER = {
    "make_blood_cells.py": ["--num-train", "6", "--num-val", "2"],
    "train": ["--cfg-options", "train_cfg.max_epochs=1", *in_one_process("train")],
    "test": ["--cfg-options", *in_one_process("test")],
}


def write_voc(coco: Path, voc: Path) -> None:
    """Writes a set in VOC's format with the pictures and boxes of one in COCO's."""
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (voc / part).mkdir(parents=True)
    for split in ("train", "val"):
        content = json.loads((coco / f"annotations/{split}.json").read_text())
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        for image in content["images"]:
            tree = ElementTree.Element("annotation")
            size = ElementTree.SubElement(tree, "size")
            for side in ("width", "height"):
                ElementTree.SubElement(size, side).text = str(image[side])
            for box in content["annotations"]:
                if box["image_id"] == image["id"]:
                    x, y, width, height = box["bbox"]
                    corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + width, ymax=y + height)
                    thing = ElementTree.SubElement(tree, "object")
                    ElementTree.SubElement(thing, "name").text = names[box["category_id"]]
                    around = ElementTree.SubElement(thing, "bndbox")
                    for corner, value in corners.items():
                        ElementTree.SubElement(around, corner).text = str(value)
            stem = Path(image["file_name"]).stem
            ElementTree.ElementTree(tree).write(voc / f"Annotations/{stem}.xml")
            with (voc / f"ImageSets/Main/{split}.txt").open("a") as listed:
                listed.write(f"{stem}\n")
            picture = (coco / "images" / image["file_name"]).read_bytes()
            (voc / "JPEGImages" / image["file_name"]).write_bytes(picture)


def facts(coco: Path, split: str) -> dict:
    """The boxes and classes of each image of a set."""
    content = json.loads((coco / f"annotations/{split}.json").read_text())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    found = {}
    for image in content["images"]:
        found[image["file_name"], image["width"], image["height"]] = [
            (names[box["category_id"]], *map(float, box["bbox"]))
            for box in content["annotations"]
            if box["image_id"] == image["id"]
        ]
    return found


def test_its_page_from_pictures_to_predictions(tmp_path):
    """All its commands but the export, with a few pictures and steps."""
    folder = copied("custom_dataset", tmp_path)
    said = {}
    for words in commands(folder / "README.md"):
        name = program(words)
        if name == "export_onnx":  # with --full
            continue
        if name == "voc_to_coco.py":
            write_voc(folder / "data/cells", folder / words[2])
        words = [word.replace("epoch_8.pth", "epoch_1.pth") for word in words]
        said[name] = execute([*words, *SHORTER.get(name, [])], folder)

    assert "'WBC'" in said["check_dataset"] and "training can begin" in said["check_dataset"]
    assert re.search(r"loss: \d", said["train"]) and "mask" not in said["train"].split("loss:")[1]
    assert "coco/bbox_mAP: " in said["test"] and "segm" not in said["test"]
    assert (folder / "predictions.png").stat().st_size > 10_000
    assert any((folder / "found").rglob("*val_0001*"))

    for split, number in (("train", 6), ("val", 2)):
        assert len(facts(folder / "data/cells", split)) == number
        assert facts(folder / "data/bccd", split) == facts(folder / "data/cells", split)
    config = commands(folder / "README.md")[1]
    assert "training can begin" in execute(config, folder, CELLS_ROOT="data/bccd")


def test_the_larger_model_of_its_page(tmp_path):
    """What the page has for photographs fits in the config's place for the model."""
    folder = copied("custom_dataset", tmp_path)
    (larger,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    text = (folder / "faster_rcnn_halvit_cells.py").read_text()
    start, end = text.index("# The model"), text.index("train_cfg")
    config = folder / "larger.py"
    config.write_text(text[:start] + textwrap.dedent(larger) + text[end:])
    counted = count_model(load_config(config))
    assert (counted.model, counted.backbone) == ("FasterRCNN", "HaLViT")
    assert counted.without_head.parameters == 11_048_832 - 2 * 384  # class token, its position
    assert not any("mask" in part.name for part in counted.parts)


def test_its_numbers_are_in_the_log(root):
    log = json.loads((root / "docs/results/examples/custom_dataset.json").read_text())
    page = (root / "examples/custom_dataset/README.md").read_text()
    reached = [log["metrics"]["coco/bbox_mAP"]]
    reached += [log["metrics"][f"coco/{kind}_precision"] for kind in make.CLASSES]
    assert re.findall(r"\b0\.\d{3}\b", page) == [f"{value:.3f}" for value in reached]
    assert log["seed"] == 0 and log["machine"]["date"].startswith("2026-11-30")
    assert f"{log['cpu_seconds_of_training'] / 60:.0f} minutes" in page
    counted = count_model(load_config(root / "examples/custom_dataset/faster_rcnn_halvit_cells.py"))
    sizes = counted.without_head.parameters, counted.dense_twin.without_head.parameters
    assert sizes == (log["parameters"]["backbone"], log["parameters"]["dense_twin_backbone"])
    assert re.findall(r"\b[\d,]+,\d{3}\b", page) == [f"{size:,}" for size in sizes]


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_its_page_as_it_is(tmp_path):
    """Trained to the end and exported, it finds cells as well as its page says."""
    folder = copied("custom_dataset", tmp_path)
    said = {}
    for words in commands(folder / "README.md"):
        if program(words) != "voc_to_coco.py":
            said[program(words)] = execute(words, folder)
    reached = float(re.search(r"coco/bbox_mAP: ([\d.]+)", said["test"])[1])
    log = Path(__file__).parents[2] / "docs/results/examples/custom_dataset.json"
    assert reached == pytest.approx(
        json.loads(log.read_text())["metrics"]["coco/bbox_mAP"], abs=0.05
    )
    assert (folder / "cells.onnx").is_file()


def test_boxes_are_tight_and_inside():
    for seed in range(3):
        picture, cells = make.draw_picture(np.random.default_rng(seed))
        assert picture.size == (make.WIDTH, make.HEIGHT)
        boxes = list(make.boxes(cells))
        assert len(boxes) == len(cells) > 5
        for box, cell in zip(boxes, cells, strict=True):
            x, y, width, height = box["bbox"]
            inside = cell.mask[y : y + height, x : x + width]
            assert inside.sum() == cell.mask.sum()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            assert box["category_id"] == cell.kind + 1


def test_what_is_drawn(tmp_path):
    """Pictures differ from each other, not from run to run; cells are as many as BCCD's."""
    for name, number in (("a", 12), ("b", 12)):
        make.make_blood_cells(tmp_path / name, num_train=number, num_val=2, seed=3)
    pictures = [file.read_bytes() for file in sorted((tmp_path / "a/images").iterdir())]
    assert pictures == [file.read_bytes() for file in sorted((tmp_path / "b/images").iterdir())]
    assert len(set(pictures)) == 14
    drawn = facts(tmp_path / "a", "train")
    kinds = Counter(box[0] for boxes in drawn.values() for box in boxes)
    assert 8 < kinds["RBC"] / 12 < 16 and 0.4 < kinds["WBC"] / 12 < 1.6
    assert 0.7 < kinds["Platelets"] / 12 < 2.4
    content = json.loads((tmp_path / "a/annotations/train.json").read_text())
    assert all("segmentation" not in box for box in content["annotations"])


def test_cells_are_where_the_stain_is():
    """In green light a white cell's nucleus is darkest, then red cells; plasma is light."""
    picture, cells = make.draw_picture(np.random.default_rng([0, 0, 1]))
    green = np.asarray(picture)[..., 1]
    covered = np.any([cell.mask for cell in cells], axis=0)
    darkest = {cell.kind: np.percentile(green[cell.mask], 10) for cell in cells}
    assert darkest[1] < darkest[0] < np.median(green[~covered])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["full"], "full already holds something; remove it or choose another folder"),
        (["new", "--num-val", "0"], "each set needs a picture, and a seed is not negative"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, options, sentence):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    script = Path(make.__file__)
    status, _, errors = run([sys.executable, script, *options], tmp_path)
    assert status == 2 and errors.startswith("error: ") and errors.endswith(f"{sentence}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


ANNOTATION = """<annotation><size><width>9</width><height>7</height></size>
<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>2</ymin>{xmax}<ymax>4</ymax></bndbox></object>
</annotation>"""


def test_corners_become_a_corner_and_a_size(tmp_path):
    (tmp_path / "a.xml").write_text(ANNOTATION.format(name="WBC", xmax="<xmax>1</xmax>"))
    image, boxes = convert.read_annotation(tmp_path / "a.xml", ["RBC", "WBC"])
    assert image == dict(width=9, height=7)
    assert boxes == [dict(category_id=2, bbox=[0, 1, 1, 3], area=3, iscrowd=0)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (ANNOTATION.format(name="cat", xmax="<xmax>1</xmax>"), "cat is not among the classes"),
        (ANNOTATION.format(name="WBC", xmax=""), "no annotation in Pascal VOC's format"),
        (ANNOTATION.format(name="WBC", xmax="<xmax>x</xmax>"), "no annotation in Pascal VOC's"),
        ("<annotation>", "no annotation in Pascal VOC's format"),
        (None, "cannot be read"),
    ],
)
def test_annotations_that_are_none(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        convert.read_annotation(tmp_path / "a.xml", ["RBC", "WBC"])


def test_a_list_names_an_image_that_is_not_there(tmp_path):
    make.make_blood_cells(tmp_path / "cells", num_train=1, num_val=1, seed=0)
    write_voc(tmp_path / "cells", tmp_path / "voc")
    (tmp_path / "voc/JPEGImages/val_0001.jpg").unlink()
    splits = dict(train="train", val="val")
    with pytest.raises(UserError, match=r"val_0001\.jpg: there is no such image"):
        convert.voc_to_coco(tmp_path / "voc", tmp_path / "new", classes=make.CLASSES, splits=splits)
    assert not (tmp_path / "new").exists()
