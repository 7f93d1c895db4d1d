"""The rules for faults one by one, where a spoilt file alone does not show them."""

import json
import random
import time
from pathlib import Path

import coco_oracle as oracle
import numpy as np
import pytest
from PIL import Image

from halvit_mm.datasets import check_coco, coco_json
from halvit_mm.datasets.check import check_dataset
from halvit_mm.datasets.check_images import find_other_sizes
from halvit_mm.datasets.coco_faults import note_coco_faults
from halvit_mm.datasets.coco_json import Parsed, read_json
from halvit_mm.datasets.faults import Faults
from halvit_mm.datasets.rle import decode_counts
from halvit_mm.errors import UserError


def test_rle_is_decoded_as_pycocotools_does() -> None:
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    masks = [
        rng.random((rng.integers(1, 90), rng.integers(1, 90))) < share
        for share in (0, 0.01, 0.5, 0.99, 1)
        for _ in range(20)
    ]
    masks.append(np.indices((3000, 3000)).sum(0) < 3000)
    texts = [coco_mask.encode(np.asfortranarray(m, np.uint8))["counts"].decode() for m in masks]
    counts, begins, broken = decode_counts(texts)
    assert not broken.any()
    for i, mask in enumerate(masks):
        own = counts[begins[i] : begins[i + 1]].tolist()
        assert own == oracle.runs(mask) == oracle.unpack_text(texts[i])
        assert oracle.pack(own) == texts[i]
    assert decode_counts([])[0].size == 0


def test_broken_rle_beside_sound_ones() -> None:
    good = oracle.pack([5, 3, 2])
    texts = [good, good[:-1] + "o", "", "é", good, "ooooooooo0", "\ud800", good]
    counts, begins, broken = decode_counts(texts)
    assert broken.tolist() == [False, True, False, True, False, True, True, False]
    for i in (0, 4, 7):
        assert counts[begins[i] : begins[i + 1]].tolist() == [5, 3, 2]
    assert begins[2] == begins[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    oracle.write_images(tmp_path)
    return tmp_path


def test_resize_cuts_boxes_off(folder: Path) -> None:
    """What the rule for boxes that reach beyond the image promises."""
    import mmdet.datasets.transforms  # noqa: F401
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    content = oracle.sound_content()
    content["annotations"][0]["bbox"] = [-7, -3, 900, 30]
    (folder / "ann.json").write_text(json.dumps(content))
    dataset = oracle.config(folder, folder / "ann.json", test_mode=False)
    dataset["pipeline"].insert(2, dict(type="Resize", scale=(120, 80), keep_ratio=True))
    check_dataset(dataset, option="train_dataloader.dataset")
    boxes = DATASETS.build(dataset)[0]["data_samples"].gt_instances.bboxes.tensor
    assert boxes[0].tolist() == [0, 0, 120, 54]


def test_the_metric_never_finds_annotation_0(folder: Path) -> None:
    """Why an id of 0 is worth a word."""
    scores = {}
    for number in (0, 50):
        content = oracle.sound_content()
        content["annotations"][0]["id"] = number
        (folder / "ann.json").write_text(json.dumps(content))
        scores[number] = perfect_score(folder, content)
    assert scores[50] == 1 and scores[0] < 1


def perfect_score(folder: Path, content: dict) -> float:
    """The mAP of predictions that are the annotations."""
    import torch
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(ann_file=str(folder / "ann.json"), metric="bbox")
    metric.dataset_meta = dict(classes=oracle.CLASSES)
    labels = oracle.labels_of(content)
    for image in content["images"]:
        own = [
            a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]
        ]
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = dict(
            bboxes=boxes,
            labels=torch.tensor([labels[a["category_id"]] for a in own], dtype=torch.long),
            scores=torch.ones(len(own)),
        )
        sample = dict(img_id=image["id"], ori_shape=(image["height"], image["width"]))
        metric.process({}, [sample | dict(pred_instances=found)])
    return metric.evaluate(len(content["images"]))["coco/bbox_mAP"]


def test_what_rules_deal_with_is_counted_in_the_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = []
    monkeypatch.setattr(check_coco, "print_log", lambda text, *_: logged.append(text))
    content = oracle.sound_content()
    for annotation in content["annotations"][:2]:
        annotation["bbox"][2] = 0
    (folder / "ann.json").write_text(json.dumps(content))
    check_dataset(oracle.config(folder, folder / "ann.json", test_mode=False), option="train")
    (said,) = logged
    assert "boxes less than a pixel wide or high: 2 (left out of training; " in said
    assert "tools/check_dataset.py CONFIG lists all" in said


def test_a_file_beyond_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**42)  # 4 TiB of nothing
    with pytest.raises(UserError, match=r"huge\.json has 4096\.0 GiB, and reading it takes about"):
        read_json(tmp_path / "huge.json")
    (tmp_path / "name.json").write_text('["é"]', encoding="utf-8")
    monkeypatch.setattr(coco_json.locale, "getpreferredencoding", lambda _: "cp1252")
    with pytest.raises(UserError, match=r"letters beyond ASCII, .* PYTHONUTF8=1"):
        read_json(tmp_path / "name.json")


def test_photographs_turned_by_exif(tmp_path: Path) -> None:
    """The size is that of the picture as mmcv loads it."""
    import mmcv

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    paths = {0: tmp_path / "turned.jpg"}
    loaded = mmcv.imread(tmp_path / "turned.jpg").shape
    assert find_other_sizes(paths, {0: (loaded[1], loaded[0])}) == {}
    assert loaded[:2] == (60, 40)
    assert find_other_sizes(paths, {0: (60, 40)}) == {0: (40, 60)}


def test_a_hundred_thousand_annotations_take_seconds_and_few_examples_are_kept() -> None:
    draw = random.Random(0)
    images = [dict(id=i, file_name=f"{i}.jpg", width=640, height=480) for i in range(1, 10_001)]
    annotations = []
    for i in range(1, 100_001):
        x, y, w, h = draw.uniform(0, 300), draw.uniform(0, 200), draw.uniform(2, 300), 150.0
        outline = [v for k in range(15) for v in (x + w * k / 15, y + h * (k * 7 % 15) / 15)]
        annotations.append(
            dict(id=i, image_id=i % 10_000 + 1, category_id=1, bbox=[x, y, -w, h], area=w * h)
            | dict(segmentation=[outline], iscrowd=0)
        )
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name="a")])
    faults = Faults(keep=3)
    started = time.process_time()
    note_coco_faults(Parsed(content), faults, masks=True)
    assert time.process_time() - started < 10
    assert faults.counts == {"negative size": 100_000}
    assert [fault.annotation_id for fault in faults.examples["negative size"]] == [1, 2, 3]
    assert faults.examples["negative size"][0].refused


def test_other_formats_with_the_same_lists_are_passed_over(folder: Path) -> None:
    """LVIS has no file names; panoptic annotations no boxes."""
    content = oracle.sound_content()
    for annotation in content["annotations"]:
        annotation.pop("bbox")
    (folder / "ann.json").write_text(json.dumps(content))
    dataset = oracle.config(folder, folder / "ann.json", test_mode=False)
    for kind in ("CocoPanopticDataset", "LVISV1Dataset", "mmdet.CocoCaptionDataset"):
        check_dataset(dataset | dict(type=kind), option="train")
    with pytest.raises(UserError, match="annotation 1 of image 1 lacks 'bbox'"):
        check_dataset(dataset, option="train")
