"""Images with a class each: the same from folders and from archives, and whole."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from archives import CLASSES, LABELS, encode, make_archives, pack, pixels
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from halvit_mm.datasets import LabelledImages
from halvit_mm.datasets.image_archive import unpack_images
from halvit_mm.errors import UserError


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return make_archives(tmp_path / "packed", kind="png")


@pytest.fixture
def folders(tmp_path: Path, packed: Path) -> Path:
    unpack_images(packed, tmp_path / "folders")
    return tmp_path / "folders"


def contents(dataset: LabelledImages) -> list[tuple[int, str]]:
    """Labels and pixels, in an order of their own."""
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    return sorted((i["gt_label"], hashlib.sha1(i["img"].tobytes()).hexdigest()) for i in infos)


def test_an_archive_image_by_image(packed: Path) -> None:
    dataset = LabelledImages(data_root=str(packed), split="train")
    assert len(dataset) == 5 and dataset.metainfo == {"classes": CLASSES}
    for i, label in enumerate(LABELS["train"]):
        info = dataset[i]
        assert (info["img"][..., ::-1] == pixels(i)).all()  # blue comes first
        assert info["img"].dtype == np.uint8
        assert info["img_shape"] == info["ori_shape"] == (8, 9)
        assert info["gt_label"] == label and dataset.get_cat_ids(i) == [label]
        assert info["sample_idx"] == i
        assert info["img_path"] == f"{packed}/insects_train.npz/{i:05}"
        assert "number" not in info


def test_folders_are_read_as_mmcv_reads_them(folders: Path) -> None:
    import mmcv

    dataset = LabelledImages(data_root=str(folders), split="train")
    for i in range(len(dataset)):
        info = dataset[i]
        assert (info["img"] == mmcv.imread(info["img_path"])).all()
        assert CLASSES[info["gt_label"]] == Path(info["img_path"]).parent.name
        assert dataset.get_cat_ids(i) == [info["gt_label"]]


@pytest.mark.parametrize("split", ["train", "test"])
def test_folders_and_archives_agree(packed: Path, folders: Path, split: str) -> None:
    one, other = (LabelledImages(data_root=str(r), split=split) for r in (packed, folders))
    assert contents(one) == contents(other) and len(one) == len(LABELS[split])
    assert one.metainfo == other.metainfo == {"classes": CLASSES}


@pytest.mark.parametrize("split", ["train", "test"])
def test_real_folders_and_archives_agree(test_data: Path, tmp_path: Path, split: str) -> None:
    """CIFAR-10: JPEG images."""
    unpack_images(test_data / "tiny" / f"cifar10_tiny_{split}.npz", tmp_path / "out")
    roots = (test_data / "tiny", tmp_path / "out")
    one, other = (LabelledImages(data_root=str(root), split=split) for root in roots)
    assert contents(one) == contents(other) and len(one) in (300, 100)
    assert one.metainfo == other.metainfo
    assert one.metainfo["classes"][:2] == ("airplane", "automobile")


def test_names_that_people_read(packed: Path, tmp_path: Path) -> None:
    """From the archive, from the file that unpacking writes, or as given."""
    names = ("Ameise, Formicidae", "Biene", "Kuh")
    for split in LABELS:
        archives.replace(packed / f"insects_{split}.npz", names=np.array(names))
    unpack_images(packed, tmp_path / "out")
    for root in (packed, tmp_path / "out"):
        read = LabelledImages(data_root=str(root), split="train")
        assert read.metainfo["classes"] == names
        given = LabelledImages(
            data_root=str(root), split="train", metainfo=dict(classes=["A", "B", "C"])
        )
        assert given.metainfo["classes"] == ("A", "B", "C")
        assert contents(given) == contents(read)
    (tmp_path / "out" / "words.txt").write_text("cow\tmucca\nfly\tmosca\n\n")  # as far as it goes
    read = LabelledImages(data_root=str(tmp_path / "out"), split="train")
    assert read.metainfo["classes"] == ("ant", "bee", "mucca")


def test_folders_as_tiny_imagenet_has_them(folders: Path) -> None:
    """Images in a deeper folder in capitals, beside other files; hidden things do not count."""
    for name in CLASSES:
        folder = folders / "train" / name
        (folder / "images").mkdir()
        for file in folder.glob("*.png"):
            file.rename(folder / "images" / f"{file.stem}.PNG")
        (folder / f"{name}_boxes.txt").write_text("boxes")
        (folder / "images" / "._0.PNG").write_text("a Mac was here")
    (folders / "train" / ".ipynb_checkpoints").mkdir()
    dataset = LabelledImages(data_root=str(folders), split="train")
    assert len(dataset) == 5 and dataset.metainfo["classes"] == CLASSES
    assert sorted(dataset.get_cat_ids(i)[0] for i in range(5)) == sorted(LABELS["train"])


@pytest.mark.parametrize(
    ("kind", "context"), [("packed", "fork"), ("folders", "fork"), ("packed", "spawn")]
)
def test_worker_processes(request: pytest.FixtureRequest, kind: str, context: str) -> None:
    root = request.getfixturevalue(kind)
    dataset = LabelledImages(data_root=str(root), split="train")
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context=context, timeout=200
    )
    loaded = list(loader)
    assert len(loaded) == 5
    for info, i in zip(loaded, range(5), strict=True):
        assert info["gt_label"] == dataset.get_cat_ids(i)[0]
        assert (torch.as_tensor(info["img"]).numpy() == dataset[i]["img"]).all()


def test_an_archives_bytes_are_there_once(tmp_path: Path) -> None:
    """In the process, in subsets of the set, and in what a new process is sent."""
    images = [encode(i, "png") for i in range(200)]
    np.savez(tmp_path / "x_train.npz", **pack(images, [i % 3 for i in range(200)]))
    dataset = LabelledImages(data_root=str(tmp_path), split="train")
    archive = dataset._archive
    assert all(np.shares_memory(archive.image(i), archive.data) for i in range(200))
    subset = dataset.get_subset([5, 3])
    assert subset._archive is archive
    assert [subset[i]["img_path"][-5:] for i in range(2)] == ["00005", "00003"]
    sent = pickle.dumps(dataset)
    assert archive.data.nbytes < len(sent) < archive.data.nbytes + 200 * 250
    assert contents(pickle.loads(sent)) == contents(dataset)


@pytest.mark.parametrize("kind", ["packed", "folders"])
@pytest.mark.parametrize(("indices", "chosen"), [(2, [0, 1]), ([4, 0], [4, 0]), (-1, [4])])
def test_indices(
    request: pytest.FixtureRequest, kind: str, indices: int | list[int], chosen: list[int]
) -> None:
    root = str(request.getfixturevalue(kind))
    everything = LabelledImages(data_root=root, split="train")
    some = LabelledImages(data_root=root, split="train", indices=indices)
    assert [some[i]["img_path"] for i in range(len(some))] == [
        everything[i]["img_path"] for i in chosen
    ]
    assert some.metainfo == everything.metainfo


def test_transforms_of_mmpretrain_and_wrappers_of_mmengine(packed: Path) -> None:
    from mmengine.registry import DefaultScope

    pipeline = [dict(type="RandomCrop", crop_size=6), dict(type="PackInputs")]
    config = dict(type="LabelledImages", data_root=str(packed), split="train", pipeline=pipeline)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        import mmpretrain.datasets  # noqa: F401

        dataset = DATASETS.build(config)
        balanced = DATASETS.build(
            dict(type="ClassBalancedDataset", oversample_thr=0.5, dataset=config)
        )
    item = dataset[3]
    assert item["inputs"].shape == (3, 6, 6)
    assert item["data_samples"].gt_label.item() == 2
    assert item["data_samples"].img_path.endswith("insects_train.npz/00003")
    labels = [balanced[i]["data_samples"].gt_label.item() for i in range(len(balanced))]
    assert labels.count(0) == 3 and labels.count(2) == 4  # 2 of 5 are fewer than a half


def test_a_class_without_images_is_said(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from halvit_mm.datasets import labelled_images

    said: list[str] = []
    monkeypatch.setattr(labelled_images, "print_log", lambda text, *_: said.append(text))
    LabelledImages(data_root=str(packed), split="test", metainfo=dict(classes=("A", "B", "C")))
    (sentence,) = said
    assert sentence.startswith(f"1 of the 3 classes have no image in {packed}/insects_test.npz")
    assert "first 'C'" in sentence
    archives.replace(
        packed / "insects_test.npz", **pack([encode(0), encode(1), encode(2)], [0, 2, 1])
    )
    LabelledImages(data_root=str(packed), split="test")
    assert len(said) == 1


# What is wrong with a set


def empty_folders(root: Path) -> None:
    for file in root.glob("train/*/*"):
        file.unlink()


def no_class_folders(root: Path) -> None:
    empty_folders(root)
    Image.fromarray(pixels(0)).save(root / "train" / "0.png")


@pytest.mark.parametrize(
    ("kind", "damage", "options", "message"),
    [
        (
            "folders",
            None,
            dict(split="val"),
            r"neither a folder val nor an archive \*_val\.npz: co",
        ),
        ("packed", None, dict(split="val"), r"neither a folder val nor an archive \*_val\.npz: co"),
        ("folders", None, dict(data_root="nowhere"), r"nowhere has neither a folder train nor an"),
        ("folders", empty_folders, {}, r"no image \(\.bmp, .*\) in the folders of .*/train, which"),
        ("folders", no_class_folders, {}, r"must hold a folder a class: put the images there or"),
        (
            "folders",
            None,
            dict(metainfo=dict(classes=("cow", "bee", "ant"))),
            r"the classes of .*/train in another order, .* in the order 'ant', 'bee', 'cow'$",
        ),
        (
            "packed",
            None,
            dict(metainfo=dict(classes=("cow", "bee", "ant"))),
            r"the classes of .*npz in another order, .* in the order 'ant', 'bee', 'cow'$",
        ),
        ("folders", None, dict(metainfo=dict(classes=("a", "b"))), r"has 3 classes, but 2 names"),
        ("packed", None, dict(metainfo=dict(classes=("a", "b"))), r"has 3 classes, but 2 names"),
        (
            "packed",
            None,
            dict(pipeline=[dict(type="mmcv.LoadImageFromFile"), dict(type="PackInputs")]),
            r"the images of LabelledImages come loaded: remove LoadImageFromFile from the pipeline",
        ),
    ],
)
def test_wrong_sets(
    request: pytest.FixtureRequest,
    kind: str,
    damage: Callable[[Path], None] | None,
    options: dict,
    message: str,
) -> None:
    root = request.getfixturevalue(kind)
    if damage:
        damage(root)
    with pytest.raises(UserError, match=message) as caught:
        LabelledImages(**{"data_root": str(root), "split": "train"} | options)
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>404 Not Found</html>", "cannot identify image file"),
        (encode(0)[:-40], "image file is truncated"),
        (encode(0, "png")[:-40], "image file is truncated"),
        (None, "No such file or directory"),
    ],
)
def test_an_image_that_breaks_while_it_is_used(
    folders: Path, content: bytes | None, reason: str
) -> None:
    """OpenCV would show an image that was cut off with a grey rest."""
    dataset = LabelledImages(data_root=str(folders), split="train")
    file = folders / "train" / "ant" / "00001.png"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert dataset[0]["gt_label"] == 0
    with pytest.raises(UserError, match=rf"^{file}: the image cannot be read \({reason}"):
        dataset[1]
