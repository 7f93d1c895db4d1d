"""Archives of encoded images become folders, byte for byte, or nothing is written."""

import subprocess
import sys
from pathlib import Path

import archives
import numpy as np
import pytest
from archives import CLASSES, LABELS, encode, make_archives, pack
from PIL import Image

from halvit_mm.datasets.image_archive import read_classes, unpack_images
from halvit_mm.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The archives of two splits."""
    return make_archives(tmp_path / "source")


def replace(source: Path, **arrays: object) -> None:
    """Changes arrays of the archive of the training images; None removes one."""
    archives.replace(source / "insects_train.npz", **arrays)


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_bytes_stay_and_classes_count_from_zero(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert unpack_images(source, out) == dict(train=5, test=2)
    assert files(out) == {
        *(f"train/ant/0000{i}.jpg" for i in range(3)),
        *(f"train/cow/0000{i}.jpg" for i in range(2)),
        "test/ant/00000.jpg",
        "test/bee/00000.jpg",
    }
    for split, labels in LABELS.items():
        for name, label in zip(CLASSES, range(3), strict=True):
            expected = [encode(i) for i, other in enumerate(labels) if other == label]
            found = sorted((out / split / name).iterdir())  # also where there is no image
            assert [file.read_bytes() for file in found] == expected


def test_mmpretrain_reads_what_is_written(source: Path, tmp_path: Path) -> None:
    from mmpretrain.datasets import CustomDataset

    unpack_images(source, tmp_path / "out")
    data = CustomDataset(data_root=str(tmp_path / "out"), data_prefix="train")
    assert data.CLASSES == CLASSES
    assert sorted(data.get_gt_labels()) == sorted(LABELS["train"])
    for i in range(len(data)):
        info = data.get_data_info(i)
        assert Path(info["img_path"]).parent.name == CLASSES[info["gt_label"]]


def test_one_archive_with_png_and_given_names(source: Path, tmp_path: Path) -> None:
    images = [encode(0, "png"), encode(1, "jpeg"), encode(2, "png")]
    replace(source, **pack(images, [1, 1, 0]) | dict(classes=None))
    with pytest.raises(UserError, match=r"train\.npz names no classes: give their names \(--cl"):
        unpack_images(source / "insects_train.npz", tmp_path / "out")
    unpack_images(source / "insects_train.npz", tmp_path / "out", classes=["x", "y"])
    assert files(tmp_path / "out") == {
        "train/y/00000.png",
        "train/y/00001.jpg",
        "train/x/00000.png",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["cow", "ant", "bee"],
            r"in another order, .*: give them in the order 'ant', 'bee', 'cow'$",
        ),
        (["x", "y"], r"train\.npz has 3 classes, but 2 names are given: give one for each class"),
        ("xyz", r"metainfo\.classes is the string 'xyz': write a tuple"),
    ],
)
def test_given_names_must_fit_the_archives_own(
    source: Path, tmp_path: Path, names: list[str] | str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        unpack_images(source / "insects_train.npz", tmp_path / "out", classes=names)
    assert not (tmp_path / "out").exists()


def test_names_that_people_read_go_along(source: Path, tmp_path: Path) -> None:
    replace(source, names=np.array(["Ameise, Formicidae", "Biene", "Kuh"]))
    unpack_images(source, tmp_path / "out")
    expected = "ant\tAmeise, Formicidae\nbee\tBiene\ncow\tKuh\n"
    assert (tmp_path / "out" / "words.txt").read_text() == expected


def test_trailing_bytes_of_cameras_are_no_fault(source: Path, tmp_path: Path) -> None:
    images = [encode(0) + b"\0" * 20, encode(1) + b"\0" * 200]
    replace(source, **pack(images, [0, 1]))
    unpack_images(source / "insects_train.npz", tmp_path / "out")
    assert (tmp_path / "out" / "train" / "bee" / "00000.jpg").read_bytes() == images[1]


def test_classes_alone_are_read_from_an_archive(source: Path) -> None:
    assert read_classes(source / "insects_train.npz") == CLASSES
    replace(source, classes=None)
    assert read_classes(source / "insects_train.npz") is None
    cut_off(source)
    with pytest.raises(UserError, match="is not a whole npz archive"):
        read_classes(source / "insects_train.npz")


def cut_off(source: Path) -> None:
    file = source / "insects_train.npz"
    file.write_bytes(file.read_bytes()[:-50])


def damage(source: Path) -> None:
    """Makes the first compressed block of one that no compressor writes."""
    replace(source)
    file = source / "insects_train.npz"
    content = bytearray(file.read_bytes())
    name, extra = np.frombuffer(content, "<u2", count=2, offset=26)
    content[30 + int(name) + int(extra)] = 0xFF
    file.write_bytes(content)


def single_array(source: Path) -> None:
    with (source / "insects_train.npz").open("wb") as file:
        np.save(file, np.arange(3))


def no_archives(source: Path) -> None:
    for file in source.iterdir():
        file.rename(file.with_suffix(".zip"))


def two_sets(source: Path) -> None:
    (source / "birds_test.npz").write_bytes((source / "insects_test.npz").read_bytes())


def no_images(source: Path) -> None:
    replace(source, **pack([], []))


def cut_image(source: Path) -> None:
    images = [encode(0), encode(1)[:-30], encode(2)]
    replace(source, **pack(images, [0, 0, 0]))


def no_image(source: Path) -> None:
    replace(source, **pack([encode(0), b"<html>404 Not Found</html>"], [0, 0]))


def bitmap(source: Path) -> None:
    replace(source, **pack([encode(0), encode(1), encode(2, "bmp")], [0, 0, 0]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.rename(s.with_name("away")), r"source does not exist; name an npz archive"),
        (no_archives, r"there is no archive <name>_<split>\.npz in .*source; name their folder"),
        (two_sets, r"has 3 archives, but only the splits test, train; unpack each set"),
        (cut_off, r"insects_train\.npz is not a whole npz archive \(.*\); fetch it anew"),
        (damage, r"insects_train\.npz is not a whole npz archive \(.*invalid block type"),
        (single_array, r"insects_train\.npz is not a whole npz archive"),
        (
            lambda s: replace(s, label=np.array([{}, 0, 0, 0, 0], dtype=object)),
            r"is not a whole npz archive \(Object arrays cannot be loaded",
        ),
        (lambda s: replace(s, off=None, label=None), r"train\.npz lacks off, label: this is no"),
        (lambda s: replace(s, label=np.zeros(5)), r"`off` and `label` rows of whole numbers"),
        (lambda s: replace(s, data=np.zeros((9, 9), np.uint8)), r"`data` must be a row of bytes"),
        (lambda s: replace(s, label=np.zeros(4, int)), r"contradicts itself: `off` must rise"),
        (lambda s: replace(s, data=np.zeros(9, np.uint8)), r"contradicts itself: `off` must rise"),
        (
            lambda s: replace(
                s, data=np.zeros(40, np.uint8), off=np.array([0, 9, 5, 20, 30, 40], np.uint32)
            ),
            r"contradicts itself: `off` must rise",
        ),
        (no_images, r"insects_train\.npz has no images"),
        (
            lambda s: replace(s, label=np.array([0, 1, 2, 3, 0])),
            r"has labels from 0 to 3, but there are 3 classes, numbered from 0",
        ),
        (lambda s: replace(s, label=np.array([0, -1, 2, 1, 0])), r"has labels from -1 to 2"),
        (lambda s: replace(s, classes=np.array(["a", "../b", "c"])), r"class '\.\./b' .* cannot"),
        (lambda s: replace(s, classes=np.array(["a", "b", "b"])), r"two classes .* the same name"),
        (lambda s: replace(s, classes=np.array(["a", "b", "c"])), r"has other classes than the"),
        (cut_image, r"image 1 of .*insects_train\.npz cannot be read \(.* truncated.*\): fetch"),
        (
            no_image,
            r"image 1 of .*insects_train\.npz cannot be read \(cannot identify image file\)",
        ),
        (bitmap, r"image 2 of .*insects_train\.npz is neither JPEG nor PNG"),
        (lambda s: replace(s, off=np.array([], int)), r"contradicts itself: `off` must rise"),
        (lambda s: replace(s, names=np.array(["a"])), r"3 classes have 1 `names`; fetch it anew"),
    ],
)
def test_bad_archives_leave_nothing(source: Path, tmp_path: Path, spoil, message: str) -> None:
    spoil(source)
    with pytest.raises(UserError, match=message):
        unpack_images(source, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} <= {"source", "away"}


def test_a_folder_in_use_stays(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(UserError, match=r"out exists and is not an empty folder; choose a new one"):
        unpack_images(source, tmp_path / "out")
    assert files(tmp_path / "out") == {"mine"}
    with pytest.raises(UserError, match=r"cannot write .*mine/out: Not a directory"):
        unpack_images(source, tmp_path / "out" / "mine" / "out")


def test_the_command(root: Path, source: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "tools/unpack_images.py"), str(source)]
    names = ["--classes", "x", "y", "z"]
    done = subprocess.run(
        [*command, "out", *names], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the images (2 test, 5 train) are in out\n"
    assert len(files(tmp_path / "out" / "train" / "x")) == 3

    done = subprocess.run(
        [*command, "out"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'out'} exists and is not an empty folder")


def test_real_images(test_data: Path, tmp_path: Path) -> None:
    assert unpack_images(test_data / "tiny", tmp_path / "out") == dict(train=300, test=100)
    archive = np.load(test_data / "tiny" / "cifar10_tiny_train.npz")
    paths = sorted((tmp_path / "out" / "train").glob("*/*.jpg"))
    assert len({path.parent for path in paths}) == 10
    assert b"".join(path.read_bytes() for path in paths) == archive["data"].tobytes()
    assert Image.open(paths[-1]).size == (32, 32)
