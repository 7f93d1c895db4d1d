"""Each way in which a data set is wrong gives one sentence: file or option, and the cure."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pytest
from PIL import Image

from halvit_mm.datasets import check_folders
from halvit_mm.datasets.check import check_classes_agree, check_dataset, count_classes
from halvit_mm.datasets.check_images import find_bad_images
from halvit_mm.datasets.coco_files import mask_annotation, write_instances
from halvit_mm.datasets.image_archive import unpack_images
from halvit_mm.errors import UserError

OPTION = "train_dataloader.dataset"
MASKS = [dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]


@pytest.fixture
def coco(tmp_path: Path) -> dict:
    """The config of a sound set: three images (two JPEG, one PNG), classes 'cat' and 'dog'."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i, name in enumerate(["one.jpg", "two.jpg", "three.png"], start=1):
        picture = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / name)
        images.append({"id": i, "file_name": name, "width": 60, "height": 40})
        for category in (1, 2):
            mask = np.zeros((40, 60), bool)
            mask[5:20, 10 * category : 10 * category + 15] = True
            annotations.append({"image_id": i, "category_id": category, **mask_annotation(mask)})
    write_instances(
        tmp_path / "ann.json",
        info={},
        categories=["cat", "dog"],
        images=images,
        annotations=annotations,
    )
    return dict(
        type="CocoDataset",
        data_root=str(tmp_path),
        ann_file="ann.json",
        data_prefix=dict(img="images/"),
        metainfo=dict(classes=("cat", "dog")),
        pipeline=MASKS,
    )


def edit(coco: dict, change: Callable[[dict], object]) -> None:
    """Changes the annotation file."""
    file = Path(coco["data_root"]) / "ann.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def image(coco: dict, name: str) -> Path:
    return Path(coco["data_root"]) / "images" / name


def test_sound_set_passes(coco: dict) -> None:
    check_dataset(coco, option=OPTION)
    check_dataset(coco, option=OPTION, num_classes=2)
    check_dataset(coco | {"test_mode": True}, option="val_dataloader.dataset", num_classes=2)
    check_dataset(coco | {"type": "mmdet.CocoDataset"}, option=OPTION)
    check_dataset(coco | {"metainfo": dict(classes=["dog"])}, option=OPTION, num_classes=1)
    absolute = coco | {
        "data_root": "",
        "ann_file": str(Path(coco["data_root"]) / "ann.json"),
        "data_prefix": dict(img=str(Path(coco["data_root"]) / "images")),
    }
    check_dataset(absolute, option=OPTION)


def test_classes_from_a_file(coco: dict, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    named = coco | {"metainfo": dict(classes=str(tmp_path / "names.txt"))}
    check_dataset(named, option=OPTION, num_classes=2)


@pytest.mark.parametrize(
    ("folder", "classes"), [("tiny/coco8_320", None), ("coco_by", None), ("nuclei", ("nucleus",))]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_sets_pass(test_data: Path, folder: str, classes: tuple | None, split: str) -> None:
    dataset = dict(
        type="CocoDataset",
        data_root=str(test_data / folder),
        ann_file=f"annotations/instances_{split}.json",
        data_prefix=dict(img=f"{split}/"),
        test_mode=split == "val",
        pipeline=MASKS,
    )
    if classes:
        dataset["metainfo"] = dict(classes=classes)
    check_dataset(
        dataset, option=f"{split}_dataloader.dataset", num_classes=len(classes or range(80))
    )


def no_root(coco: dict) -> dict:
    return coco | {"data_root": "nowhere/at/all"}


def root_is_a_file(coco: dict) -> dict:
    return coco | {"data_root": str(Path(coco["data_root"]) / "ann.json")}


def no_ann_file(coco: dict) -> dict:
    return coco | {"ann_file": "annotations/train.json"}


def ann_file_not_set(coco: dict) -> dict:
    return coco | {"ann_file": ""}


def cut_json(coco: dict) -> None:
    truncate(Path(coco["data_root"]) / "ann.json")


def binary_json(coco: dict) -> None:
    (Path(coco["data_root"]) / "ann.json").write_bytes(b"\x89PNG\xff\x00")


def other_json(coco: dict) -> None:
    (Path(coco["data_root"]) / "ann.json").write_text('[{"file": "one.jpg"}]')


def no_categories(coco: dict) -> None:
    edit(coco, lambda content: content.pop("categories"))


def no_annotations_list(coco: dict) -> None:
    edit(coco, lambda content: content.pop("annotations"))


def no_images(coco: dict) -> None:
    edit(coco, lambda content: content.update(images=[], annotations=[]))


def empty_annotations(coco: dict) -> None:
    edit(coco, lambda content: content.update(annotations=[]))


def only_cats(coco: dict) -> dict:
    edit(coco, lambda c: [a.update(category_id=1) for a in c["annotations"]])
    return coco | {"metainfo": dict(classes=("dog",))}


def default_classes(coco: dict) -> dict:
    return {k: v for k, v in coco.items() if k != "metainfo"}


def renamed(coco: dict) -> None:
    edit(coco, lambda c: [k.update(name=k["name"].upper()) for k in c["categories"]])


def a_class_too_many(coco: dict) -> dict:
    return coco | {"metainfo": dict(classes=("cat", "dog", "emu"))}


def string_class(coco: dict) -> dict:
    return coco | {"metainfo": dict(classes=("dog"))}


def other_order(coco: dict) -> dict:
    return coco | {"metainfo": dict(classes=("dog", "cat"))}


def image_gone(coco: dict) -> None:
    image(coco, "two.jpg").unlink()


def folder_gone(coco: dict) -> dict:
    return coco | {"data_prefix": dict(img="pictures/")}


def prefix_without_img(coco: dict) -> dict:
    return coco | {"data_prefix": dict(img_path="images/")}


def stray_annotations(coco: dict) -> None:
    edit(coco, lambda content: content["images"].pop(0))


def no_area(coco: dict) -> None:
    edit(coco, lambda content: content["annotations"][3].pop("area"))


def no_height(coco: dict) -> None:
    edit(coco, lambda content: content["images"][1].pop("height"))


def no_masks(coco: dict) -> None:
    edit(coco, lambda content: [a.pop("segmentation") for a in content["annotations"][2:4]])


def cut_jpeg(coco: dict) -> None:
    truncate(image(coco, "two.jpg"))


def cut_png(coco: dict) -> None:
    truncate(image(coco, "three.png"))


def no_bytes(coco: dict) -> None:
    image(coco, "one.jpg").write_bytes(b"")


def not_an_image(coco: dict) -> None:
    image(coco, "one.jpg").write_text("<html>404 Not Found</html>")


CASES = [
    (no_root, r"set nowhere/at/all does not exist \(in /.*: correct train_.*\.dataset\.data_root"),
    (root_is_a_file, r"ann\.json is not a folder: correct train_dataloader\.dataset\.data_root"),
    (no_ann_file, r"annotation file /.*train\.json does not exist: correct .*dataset\.ann_file"),
    (ann_file_not_set, r"train_dataloader\.dataset\.ann_file is not set: name the annotation file"),
    (
        cut_json,
        r"ann\.json is not valid JSON \(.*\), perhaps it was cut off: fetch or make it anew",
    ),
    (binary_json, r"ann\.json is not valid JSON"),
    (other_json, r"ann\.json is not an annotation file in COCO's format, which has the lists"),
    (no_categories, r"ann\.json is not an annotation file in COCO's format"),
    (no_annotations_list, r"ann\.json is not an annotation file in COCO's format"),
    (no_images, r"ann\.json lists no images: the data set is empty"),
    (empty_annotations, r"ann\.json lists no annotations: the data set is empty"),
    (only_cats, r"ann\.json has no annotation of the 1 class \('dog'\): the set is empty"),
    (
        default_classes,
        r"only 2 of the 80 classes .* 2 classes \('cat', 'dog'\).*: set .*metainfo to",
    ),
    (renamed, r"none of the 2 classes \('cat', 'dog'\) of train_dataloader\.dataset are among"),
    (a_class_too_many, r"only 2 of the 3 classes .* lacks 'emu'"),
    (string_class, r"metainfo\.classes is the string 'dog': write a tuple, .*: \('dog',\)$"),
    (other_order, r"order 'cat', 'dog', but .*metainfo\.classes in the order 'dog', 'cat'"),
    (image_gone, r"1 of the 3 images that .*ann\.json names are missing, first .*images/two\.jpg"),
    (folder_gone, r"folder of the images .*pictures does not exist: correct .*\.data_prefix"),
    (prefix_without_img, r"train_dataloader\.dataset\.data_prefix does not say .* dict\(img="),
    (
        stray_annotations,
        r"ann\.json has 2 faults .*, first annotation 1 of image 1 has no image 1 ",
    ),
    (no_area, r"ann\.json has 1 fault .* annotation 4 of image 2 lacks 'area': add it; tools/"),
    (no_height, r"ann\.json has 1 fault .*, first image 2 lacks 'height': add it; tools/"),
    (no_masks, r"ann\.json has 2 faults .*, first annotation 3 of image 2 has no segmentation"),
    (cut_jpeg, r"(?s)1 of the 3 images .* cannot be read.*images/two\.jpg: .*truncated"),
    (cut_png, r"(?s)1 of the 3 images .* cannot be read.*images/three\.png"),
    (no_bytes, r"(?s)1 of the 3 images .* cannot be read.*images/one\.jpg: empty file"),
    (not_an_image, r"(?s)1 of the 3 images .* cannot be read.*images/one\.jpg: cannot identify"),
]


@pytest.mark.parametrize(("damage", "message"), CASES, ids=[case[0].__name__ for case in CASES])
def test_bad_set(coco: dict, damage: Callable[[dict], dict | None], message: str) -> None:
    damaged = damage(coco) or coco
    with pytest.raises(UserError, match=message) as caught:
        check_dataset(damaged, option=OPTION)
    first_line = str(caught.value).split("\n")[0]
    assert ": " in first_line and first_line.count(". ") == 0, "one sentence, with the cure"


def test_evaluation_sets_are_checked_too(coco: dict) -> None:
    val = coco | {"test_mode": True}
    image(coco, "two.jpg").unlink()
    with pytest.raises(UserError, match=r"correct val_dataloader\.dataset\.data_prefix"):
        check_dataset(val, option="val_dataloader.dataset")


def test_test_set_may_lack_annotations(coco: dict) -> None:
    no_annotations_list(coco)
    check_dataset(coco | {"test_mode": True}, option="test_dataloader.dataset")


def test_boxes_are_enough_without_masks(coco: dict) -> None:
    no_masks(coco)
    boxes = [dict(type="LoadAnnotations", with_bbox=True)]
    check_dataset(coco | {"pipeline": boxes}, option=OPTION)


def test_many_bad_images_are_counted_and_some_listed(coco: dict) -> None:
    def add(content: dict) -> None:
        for i in range(10, 30):
            extra = dict(content["images"][0], id=i, file_name=f"{i}.jpg")
            content["images"].append(extra)
            image(coco, f"{i}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")

    edit(coco, add)
    with pytest.raises(UserError, match="20 of the 23 images") as caught:
        check_dataset(coco, option=OPTION)
    assert str(caught.value).count("\n") == 6, "five files and an ellipsis"


@pytest.mark.parametrize(
    ("wrapped", "option"),
    [
        (lambda d: dict(type="RepeatDataset", times=2, dataset=d), "dataset"),
        (lambda d: dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=d), "dataset"),
        (lambda d: dict(type="MultiImageMixDataset", pipeline=[], dataset=d), "dataset"),
        (lambda d: dict(type="ConcatDataset", datasets=[d]), r"datasets\.0"),
        (
            lambda d: dict(type="RepeatDataset", dataset=dict(type="ConcatDataset", datasets=[d])),
            r"dataset\.datasets\.0",
        ),
    ],
)
def test_wrapped_sets(coco: dict, wrapped: Callable[[dict], dict], option: str) -> None:
    check_dataset(wrapped(coco), option=OPTION)
    with pytest.raises(UserError, match=rf"correct train_dataloader\.dataset\.{option}\.data_root"):
        check_dataset(wrapped(no_root(coco)), option=OPTION)


def test_other_types_are_passed_over(coco: dict, tmp_path: Path) -> None:
    check_dataset(dict(type="CIFAR10", data_root="data/not/fetched/yet"), option=OPTION)
    check_dataset(coco | {"backend_args": dict(backend="petrel"), "data_root": "x"}, option=OPTION)
    check_dataset(coco | {"data_root": "s3://bucket/coco"}, option=OPTION)
    (tmp_path / "other.json").write_text('{"data_list": []}')
    check_dataset(coco | {"type": "MyDataset", "ann_file": "other.json"}, option=OPTION)


def test_heads_are_named(coco: dict) -> None:
    model = dict(
        backbone=dict(type="X", num_classes=1000),
        rpn_head=dict(num_classes=1),
        roi_head=dict(
            bbox_head=[dict(num_classes=80), dict(num_classes=2)], mask_head=dict(num_classes=80)
        ),
    )
    counts = count_classes(model)
    assert counts == {
        "model.roi_head.bbox_head.0.num_classes": 80,
        "model.roi_head.bbox_head.1.num_classes": 2,
        "model.roi_head.mask_head.num_classes": 80,
    }
    with pytest.raises(UserError) as caught:
        check_dataset(coco, option=OPTION, num_classes=counts)
    assert str(caught.value) == (
        "model.roi_head.bbox_head.0.num_classes=80 and model.roi_head.mask_head.num_classes=80 "
        "contradict train_dataloader.dataset, which has 2 classes ('cat', 'dog'): set "
        "model.roi_head.bbox_head.0.num_classes=2 model.roi_head.mask_head.num_classes=2, or "
        "correct train_dataloader.dataset.metainfo.classes"
    )
    with pytest.raises(UserError, match=r"num_classes=80 contradicts .* set .*num_classes=2,"):
        check_dataset(coco, option=OPTION, num_classes=80)


def test_count_classes_of_the_real_configs(root: Path) -> None:
    from mmengine.config import Config

    cfg = Config.fromfile(root / "configs" / "mask_rcnn_halvit_1x_coco.py")
    assert count_classes(cfg.model) == {
        "model.roi_head.bbox_head.num_classes": 80,
        "model.roi_head.mask_head.num_classes": 80,
    }


# Images


def test_image_screen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (50, 50, 3), dtype=np.uint8))
    sound, cut = [], []
    for extension in ("jpg", "png", "bmp", "gif", "webp", "tif"):
        picture.save(tmp_path / f"sound.{extension}")
        sound.append(tmp_path / f"sound.{extension}")
    for extension in ("jpg", "png"):
        content = (tmp_path / f"sound.{extension}").read_bytes()
        for padding in (1, 20, 500):  # bytes after the end harm no decoder
            padded = tmp_path / f"padded{padding}.{extension}"
            padded.write_bytes(content + b"\0" * padding)
            sound.append(padded)
        for share in (0.02, 0.3, 0.9):
            half = tmp_path / f"cut{share}.{extension}"
            half.write_bytes(content[: int(share * len(content))])
            cut.append(half)
    bad = find_bad_images([*sound, *cut, tmp_path / "absent.jpg", tmp_path])
    assert bad.missing == [tmp_path / "absent.jpg"]
    assert list(bad.broken) == [*cut, tmp_path]
    assert all(bad.broken.values())


def test_five_thousand_images_take_seconds(coco: dict) -> None:
    """Photographs of two megapixels; decoding all would take more than a minute."""
    photo = np.random.default_rng(0).integers(0, 255, (1200, 1600, 3), dtype=np.uint8)
    Image.fromarray(photo).save(image(coco, "one.jpg"))

    def add(content: dict) -> None:
        content["images"][0].update(width=1600, height=1200)
        content["annotations"] = content["annotations"][2:]
        for i in range(10, 5010):
            name = f"{i}.jpg"
            os.link(image(coco, "one.jpg"), image(coco, name))
            content["images"].append(dict(content["images"][0], id=i, file_name=name))

    edit(coco, add)
    started = time.process_time()  # a busy machine does not count
    check_dataset(coco, option=OPTION)
    assert time.process_time() - started < 5


# mmpretrain's sets


@pytest.fixture
def folders(tmp_path: Path) -> dict:
    """The config of a sound set of two class folders with two images each."""
    for name in ("ant", "bee"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / "train" / name / f"{i}.png")
    (tmp_path / "data" / "meta").mkdir()
    lines = "ant/0.png 0\nant/1.png 0\nbee/0.png 1\nbee/1.png 1\n"
    (tmp_path / "data" / "meta" / "list.txt").write_text(lines)
    return dict(type="CustomDataset", data_root=str(tmp_path / "data"), data_prefix="train")


HEAD = {"model.head.num_classes": 2}
LIST = {"ann_file": "meta/list.txt"}


def test_sound_folders_pass(folders: dict) -> None:
    for more in (
        {},
        LIST,
        {"data_prefix": dict(img_path="train")},
        {"classes": ["b", "a"]},  # other names than the folders', in whatever order
        {"classes": ["ant", "bee"]},
        {"with_label": False},
        LIST | {"metainfo": dict(classes=("a", "b"))},
    ):
        check_dataset(folders | more, option=OPTION, num_classes=HEAD)
    check_dataset(folders | {"type": "mmpretrain.CustomDataset"}, option=OPTION, num_classes=HEAD)


def test_split_of_imagenet(folders: dict) -> None:
    imagenet = folders | {"type": "ImageNet", "split": "train"}
    del imagenet["data_prefix"]
    with pytest.raises(UserError, match=r"train has 2 folders, one a class, but .* 1000 classes"):
        check_dataset(imagenet, option=OPTION)
    file = Path(folders["data_root"]) / "meta" / "train.txt"
    file.write_text("ant/0.png 0\nbee/1.png 999\n")
    check_dataset(imagenet, option=OPTION, num_classes={"model.head.num_classes": 1000})
    with pytest.raises(UserError, match=r"model\.head\.num_classes=10 contradicts"):
        file.write_text("ant/0.png 0\n")
        check_dataset(imagenet, option=OPTION, num_classes={"model.head.num_classes": 10})
    with pytest.raises(UserError, match=r"folder of the images .*/val does not exist"):
        check_dataset(imagenet | {"split": "val"}, option="val_dataloader.dataset")


@pytest.mark.parametrize(
    ("more", "listed", "message"),
    [
        ({"data_root": "nowhere"}, None, r"folder of the data set nowhere does not exist \(in /"),
        ({"data_prefix": "val"}, None, r"folder of the images .*data/val does not exist: correct"),
        ({"data_prefix": "meta"}, None, r"there is no image \(\.jpg.*\) in .*meta: correct"),
        ({"ann_file": "meta/x.txt"}, None, r"annotation file .*meta/x\.txt does not exist"),
        (LIST, "", r"list\.txt lists no images"),
        (LIST, "ant/0.png 0\nfly/7.png 1\n", r"1 of the 2 images .* missing, first .*fly/7\.png"),
        (LIST, "ant/0.png 0\nant/1.png\n", r"line 2 of .*list\.txt is not an image and its label"),
        (LIST, "ant/0.png 0\nbee/0.png 2\n", r"list\.txt has the label 2, but .* has 2 classes"),
        (
            LIST,
            "ant/0.png 0\nbee/0.png -1\n",
            r"list\.txt has the label -1, but .* from 0: correct",
        ),
        ({"classes": ("a", "b", "c")}, None, r"has 2 folders, one a class, but .* has 3 classes"),
        ({"classes": ("bee", "ant")}, None, r"in another order, .* sort .*\.metainfo\.classes"),
    ],
)
def test_bad_folders(folders: dict, more: dict, listed: str | None, message: str) -> None:
    if listed is not None:
        (Path(folders["data_root"]) / "meta" / "list.txt").write_text(listed)
    with pytest.raises(UserError, match=message):
        check_dataset(folders | more, option=OPTION, num_classes=HEAD)


def test_labels_below_zero_without_known_classes(folders: dict) -> None:
    (Path(folders["data_root"]) / "meta" / "list.txt").write_text("ant/0.png -1\n")
    with pytest.raises(UserError, match=r"label -1, but .*dataset's classes are numbered from 0"):
        check_dataset(folders | LIST, option=OPTION)


@pytest.mark.parametrize("more", [{}, LIST])
@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xd8\xff\xe0 cut", b"\x89PNG\r\n\x1a\n"])
def test_images_of_folders_that_cannot_be_read(folders: dict, more: dict, content: bytes) -> None:
    file = Path(folders["data_root"]) / "train" / "bee" / "1.png"
    file.write_bytes(content)
    where = "that .*list.txt names" if more else "in .*/train"
    with pytest.raises(
        UserError, match=rf"1 of the 4 images {where} cannot be read, perhaps .*\n +{file}: "
    ):
        check_dataset(folders | more, option=OPTION, num_classes=HEAD)


def test_images_without_folders_of_classes(folders: dict) -> None:
    train = Path(folders["data_root"]) / "train"
    with pytest.raises(UserError, match=r"train/ant has images, but no folder a class: sort them"):
        check_dataset(folders | {"data_prefix": "train/ant"}, option=OPTION)
    check_dataset(folders | {"data_prefix": str(train / "ant"), "with_label": False}, option=OPTION)


@pytest.mark.parametrize("more", [{}, LIST])
def test_of_many_images_a_part_is_looked_at(
    folders: dict, monkeypatch: pytest.MonkeyPatch, more: dict
) -> None:
    """Those of ImageNet are too many."""
    train = Path(folders["data_root"]) / "train"
    names = [f"ant/{i:02}.png" for i in range(10, 31)]
    for name in names:
        os.link(train / "ant" / "0.png", train / name)
    lines = "".join(f"{name} 0\n" for name in ["ant/0.png", "ant/1.png", *names, "bee/0.png"])
    (train.parent / "meta" / "list.txt").write_text(lines + "bee/1.png 1\n")
    looked: list[int] = []
    refuse = check_folders.refuse_bad_images

    def watch(paths: list[Path], **options: str) -> None:
        looked.append(len(paths))
        refuse(paths, **options)

    monkeypatch.setattr(check_folders, "refuse_bad_images", watch)
    check_dataset(folders | more, option=OPTION, num_classes=HEAD)
    monkeypatch.setattr(check_folders, "_LOOKED_AT", 10)
    check_dataset(folders | more, option=OPTION, num_classes=HEAD)
    assert looked == [25, 9]  # every third, the first and the last among them
    (train / "bee" / "1.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"^1 of the 9 images looked at, among the 25 .*, cannot be"
    ):
        check_dataset(folders | more, option=OPTION, num_classes=HEAD)


def test_folders_against_the_head(folders: dict) -> None:
    with pytest.raises(UserError, match=r"model\.head\.num_classes=5 contradicts .* 2 classes \('"):
        check_dataset(folders, option=OPTION, num_classes={"model.head.num_classes": 5})


# LabelledImages


@pytest.fixture(params=["archives", "folders"])
def labelled(request: pytest.FixtureRequest, tmp_path: Path) -> dict:
    """The config of a sound set of the classes 'ant', 'bee' and 'cow'."""
    root = archives.make_archives(tmp_path / "archives")
    if request.param == "folders":
        root = tmp_path / "folders"
        unpack_images(tmp_path / "archives", root)
    return dict(type="LabelledImages", data_root=str(root), split="train")


def without(config: dict, key: str) -> dict:
    return {k: v for k, v in config.items() if k != key}


def test_sound_labelled_images_pass(labelled: dict) -> None:
    for more in ({}, {"split": "test"}, {"metainfo": dict(classes=("a", "b", "c"))}):
        check_dataset(labelled | more, option=OPTION, num_classes={"model.head.num_classes": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"data_root": "nowhere"}, r"data set nowhere does not exist .*\.data_root"),
        (
            lambda c: c | {"split": "val"},
            r"^train_dataloader\.dataset: .* neither a folder val nor",
        ),
        (lambda c: without(c, "split"), r"dataset\.split is not set: LabelledImages needs it"),
        (
            lambda c: c | {"metainfo": dict(classes=("cow", "ant", "bee"))},
            r"^train_dataloader\.dataset: .* in another order, which would exchange them: give",
        ),
        (lambda c: c | {"metainfo": dict(classes=("a",))}, r"has 3 classes, but 1 names are given"),
        (lambda c: c | {"metainfo": dict(classes="ant")}, r"metainfo\.classes is the string 'ant'"),
    ],
)
def test_bad_configs_of_labelled_images(
    labelled: dict, change: Callable[[dict], dict], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_dataset(change(labelled), option=OPTION)


def test_labelled_images_against_the_head(labelled: dict) -> None:
    with pytest.raises(UserError, match=r"head\.num_classes=2 contradicts .* 3 classes \('ant', "):
        check_dataset(labelled, option=OPTION, num_classes=HEAD)


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    packed = archives.make_archives(tmp_path / "packed")
    unpack_images(packed, tmp_path / "out")
    truncate(tmp_path / "out" / "train" / "cow" / "00001.jpg")
    config = dict(type="LabelledImages", data_root=str(tmp_path / "out"), split="train")
    with pytest.raises(UserError, match=r"1 of the 5 images in .*/train cannot .*\n .*cow/00001\."):
        check_dataset(config, option=OPTION)
    images = [archives.encode(0), archives.encode(1)[:-30]]
    archives.replace(packed / "insects_train.npz", **archives.pack(images, [0, 1]))
    with pytest.raises(UserError, match=r"image 1 of .*insects_train\.npz cannot be read"):
        check_dataset(config | {"data_root": str(packed)}, option=OPTION)
    truncate(packed / "insects_train.npz")
    with pytest.raises(UserError, match=r"insects_train\.npz is not a whole npz archive"):
        check_dataset(config | {"data_root": str(packed)}, option=OPTION)


def test_real_archives_pass_in_seconds(test_data: Path) -> None:
    started = time.process_time()
    for split in ("train", "val"):
        dataset = dict(
            type="LabelledImages", data_root=str(test_data / "tinyimagenet100"), split=split
        )
        check_dataset(dataset, option=OPTION, num_classes=100)
    assert time.process_time() - started < 5


# Two sets whose labels must mean the same


def agree(train: dict, val: dict) -> None:
    check_classes_agree({"train_dataloader.dataset": train, "val_dataloader.dataset": val})


def remove_a_class(val: Path) -> None:
    (val / "bee").rename(val.parent / "bee")


def add_a_class(val: Path) -> None:
    (val / "fly").mkdir()


def rename_a_class(val: Path) -> None:
    (val / "bee").rename(val / "bees")


@pytest.mark.parametrize("kind", ["LabelledImages", "CustomDataset", "archive and folders"])
@pytest.mark.parametrize(
    ("damage", "difference"),
    [
        (remove_a_class, r"lacks the 1 class \('bee'\)"),
        (add_a_class, r"has the 1 class \('fly'\)"),
        (rename_a_class, r"lacks the 1 class \('bee'\) and has the 1 class \('bees'\)"),
    ],
)
def test_classes_of_two_splits(
    tmp_path: Path, kind: str, damage: Callable[[Path], None], difference: str
) -> None:
    root = tmp_path / "out"
    packed = archives.make_archives(tmp_path / "packed")
    unpack_images(packed, root)
    if kind == "CustomDataset":
        train = dict(type="CustomDataset", data_root=str(root), data_prefix="train")
        val = train | {"data_prefix": "test"}
    else:
        train = dict(type="LabelledImages", data_root=str(root), split="train")
        val = train | {"split": "test"}
    if kind == "archive and folders":
        train["data_root"] = str(packed)
    agree(train, val)
    agree(train, dict(type="RepeatDataset", times=2, dataset=val))
    damage(root / "test")
    with pytest.raises(UserError) as caught:
        agree(train, val)
    assert re.match(
        rf"val_dataloader\.dataset {difference}, other than train_dataloader\.dataset, so that "
        r"labels would not agree: make a folder for each class in both",
        str(caught.value),
    )
    with pytest.raises(UserError, match=r"^val_dataloader\.dataset\.dataset lacks|has"):
        agree(train, dict(type="RepeatDataset", times=2, dataset=val))


def test_classes_of_two_archives(tmp_path: Path) -> None:
    packed = archives.make_archives(tmp_path / "packed")
    train = dict(type="LabelledImages", data_root=str(packed), split="train")
    val = train | {"split": "test"}
    agree(train, val)
    archives.replace(packed / "insects_test.npz", classes=np.array(["bee", "ant", "cow"]))
    with pytest.raises(UserError, match=r"has the classes of train_.* in another order, so that"):
        agree(train, val)
    archives.replace(packed / "insects_test.npz", classes=None)  # nothing to compare with
    agree(train, val)


def test_lists_have_the_numbers_themselves(folders: dict) -> None:
    """A class may then be missing, as most are in the first images of ImageNet."""
    val = folders | {"data_prefix": "val", "ann_file": "meta/val.txt"}
    root = Path(folders["data_root"])
    (root / "val").mkdir()
    (root / "train" / "bee" / "0.png").rename(root / "val" / "0.png")
    (root / "meta" / "val.txt").write_text("0.png 1\n")
    for option, dataset in (("train_dataloader.dataset", folders), ("val_dataloader.dataset", val)):
        check_dataset(dataset, option=option, num_classes=HEAD)
    agree(folders, val)
    agree(folders | LIST, folders | {"with_label": False})
    agree(dict(type="CIFAR10", data_root="not/fetched"), folders)


def test_importing_needs_no_mmdet(root: Path) -> None:
    import subprocess
    import sys

    code = "import sys, halvit_mm.datasets.check; sys.exit('mmdet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
