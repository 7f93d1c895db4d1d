"""The nuclei: from one file a mask to COCO's format without changing a pixel."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from halvit_mm.datasets.nuclei import prepare_nuclei
from halvit_mm.errors import UserError


def write_sample(
    root: Path, name: str, masks: list[np.ndarray], picture: np.ndarray | None = None
) -> None:
    """Writes an image in the source's layout: RGBA, a file a mask."""
    folder = root / "stage1_train" / name
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    height, width = masks[0].shape
    if picture is None:
        rng = np.random.default_rng(len(name))
        picture = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    alpha = np.full((height, width, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([picture, alpha], 2)).save(folder / "images" / f"{name}.png")
    for i, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{i:03d}.png")


def disc(height: int, width: int, y: int, x: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def load(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def read_masks(content: dict, image_id: int) -> list[np.ndarray]:
    return [
        coco_mask.decode(a["segmentation"]).astype(bool)
        for a in content["annotations"]
        if a["image_id"] == image_id
    ]


def read_all(root: Path) -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """Picture and masks of every tile, by its file name without extension."""
    tiles = {}
    for split in ("train", "val"):
        content = load(root, split)
        for image in content["images"]:
            picture = np.asarray(Image.open(root / split / image["file_name"]))
            assert picture.shape == (image["height"], image["width"], 3)
            tiles[Path(image["file_name"]).stem] = picture, read_masks(content, image["id"])
    return tiles


def as_set(masks: list[np.ndarray]) -> set[bytes]:
    return {np.packbits(mask).tobytes() for mask in masks}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for i, (height, width) in enumerate([(256, 256), (256, 320), (360, 360), (260, 347), (96, 80)]):
        masks = [disc(height, width, 20 + 30 * j, 40, 8 + j) for j in range(2)]
        write_sample(root, f"image{i}", [*masks, disc(height, width, 60, 60, 7)])
    return root


def test_small_images_stay_whole(source: Path, tmp_path: Path) -> None:
    out = prepare_nuclei(source, tmp_path / "out", val_fraction=0.4)
    content = load(out, "train")
    assert content["categories"] == [{"id": 1, "name": "nucleus"}]
    assert (len(content["images"]), len(load(out, "val")["images"])) == (3, 2)
    tiles = read_all(out)
    assert set(tiles) == {f"image{i}_00" for i in range(5)}
    for i in range(5):
        folder = source / "stage1_train" / f"image{i}"
        picture, masks = tiles[f"image{i}_00"]
        before = Image.open(folder / "images" / f"image{i}.png").convert("RGB")
        assert (picture == np.asarray(before)).all()
        files = (folder / "masks").iterdir()
        assert as_set(masks) == as_set([np.asarray(Image.open(f)) > 0 for f in files])
    for annotation in content["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        rows, columns = np.nonzero(mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == [
            columns.min(),
            rows.min(),
            np.ptp(columns) + 1,
            np.ptp(rows) + 1,
        ]


@pytest.mark.parametrize(
    ("size", "grid", "sides"),
    [
        ((520, 696), (2, 3), {(260, 232)}),
        ((1024, 1024), (4, 4), {(256, 256)}),
        ((512, 640), (2, 2), {(256, 320)}),
        ((603, 1272), (2, 4), {(301, 318), (302, 318)}),
        ((1040, 1388), (4, 5), {(260, 277), (260, 278)}),
    ],
)
def test_large_images_are_cut(
    tmp_path: Path, size: tuple[int, int], grid: tuple[int, int], sides: set
) -> None:
    """All sizes of the real set that are cut: tiles of 232 to 360 pixels that fit together."""
    grains = [
        disc(*size, y, x, 9) for y in range(40, size[0], 170) for x in range(40, size[1], 130)
    ]
    whole = np.any(grains, axis=0)
    write_sample(tmp_path / "source", "a", grains)
    write_sample(tmp_path / "source", "b", [disc(64, 64, 30, 30, 9)])
    tiles = read_all(prepare_nuclei(tmp_path / "source", tmp_path / "out"))
    del tiles["b_00"]
    assert {picture.shape[:2] for picture, _ in tiles.values()} == sides
    rows, columns = grid
    joined = [
        np.concatenate(
            [np.any(tiles[f"a_{row}{column}"][1], axis=0) for column in range(columns)], axis=1
        )
        for row in range(rows)
    ]
    joined = np.concatenate(joined)
    assert joined.shape == size
    # Only remains of fewer than 12 pixels at the cuts may be lost, nothing is added.
    assert not (joined & ~whole).any()
    assert (whole & ~joined).sum() < 12 * len(grains)


def test_tiles_of_an_image_stay_together(tmp_path: Path) -> None:
    for i in range(8):
        write_sample(tmp_path / "source", f"image{i}", [disc(520, 696, 260, 348, 200)])
    out = prepare_nuclei(tmp_path / "source", tmp_path / "out", val_fraction=0.3)
    names = {
        split: {i["file_name"].split("_")[0] for i in load(out, split)["images"]}
        for split in ("train", "val")
    }
    assert not names["train"] & names["val"]
    assert (len(names["train"]), len(names["val"])) == (6, 2)
    assert len(load(out, "train")["images"]) == 6 * 6


def test_split_follows_the_seed(source: Path, tmp_path: Path) -> None:
    def val_names(seed: int) -> tuple[str, ...]:
        out = prepare_nuclei(source, tmp_path / f"out{seed}", val_fraction=0.4, seed=seed)
        names = tuple(i["file_name"] for i in load(out, "val")["images"])
        shutil.rmtree(out)
        return names

    assert val_names(0) == val_names(0)
    assert len({val_names(seed) for seed in range(5)}) > 1


def test_overlaps_empties_and_remains(tmp_path: Path) -> None:
    large, small = disc(256, 256, 100, 100, 30), disc(256, 256, 100, 125, 12)
    speck = np.zeros((256, 256), bool)
    speck[200, 200:211] = True  # 11 pixels
    nothing = np.zeros((256, 256), bool)
    write_sample(tmp_path / "source", "a", [small, large, large, nothing, speck])
    write_sample(tmp_path / "source", "b", [large])
    tiles = read_all(prepare_nuclei(tmp_path / "source", tmp_path / "out"))
    assert as_set(tiles["a_00"][1]) == as_set([small, large & ~small])
    assert len(tiles["a_00"][1]) == 2


def test_tiles_without_nuclei_are_left_out(tmp_path: Path) -> None:
    write_sample(tmp_path / "source", "a", [disc(512, 640, 50, 50, 20)])
    write_sample(tmp_path / "source", "b", [disc(512, 640, 500, 600, 20)])
    assert set(read_all(prepare_nuclei(tmp_path / "source", tmp_path / "out"))) == {"a_00", "b_11"}


def test_zip_and_unpacked_competition(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for file in source.rglob("*.png"):
            archive.write(file, file.relative_to(source / "stage1_train").as_posix())
        archive.writestr("__MACOSX/image0/masks/._000.png", b"not a picture")
    zipped = prepare_nuclei(tmp_path / "train.zip", tmp_path / "zipped")

    test_image = source / "stage1_test" / "other" / "images"
    test_image.mkdir(parents=True)
    shutil.copy(source / "stage1_train/image0/images/image0.png", test_image / "other.png")
    for i, folder in enumerate([source, source / "stage1_train"]):
        unpacked = prepare_nuclei(folder, tmp_path / f"out{i}")
        for split in ("train", "val"):
            assert load(unpacked, split) == load(zipped, split)


def test_round_trip_of_real_tiles(test_data: Path, tmp_path: Path) -> None:
    """Real nuclei, written as the source has them, come back mask for mask."""
    reference = test_data / "tiny" / "dsb2018_nuclei8"
    expected = {}
    for split in ("train", "val"):
        content = load(reference, split)
        for image in content["images"]:
            name = image["file_name"].removesuffix(".jpg")
            picture = np.asarray(Image.open(reference / split / image["file_name"]).convert("RGB"))
            expected[name] = picture, read_masks(content, image["id"])
            write_sample(tmp_path / "source", name, expected[name][1], picture)
    tiles = read_all(prepare_nuclei(tmp_path / "source", tmp_path / "out"))
    assert len(tiles) == len(expected) == 16
    for name, (picture, masks) in expected.items():
        assert (tiles[f"{name}_00"][0] == picture).all()
        assert len(tiles[f"{name}_00"][1]) == len(masks)
        assert as_set(tiles[f"{name}_00"][1]) == as_set(masks)


def break_mask(source: Path) -> None:
    file = source / "stage1_train/image1/masks/001.png"
    file.write_bytes(file.read_bytes()[:60])


def break_image(source: Path) -> None:
    (source / "stage1_train/image2/images/image2.png").write_bytes(b"")


def resize_mask(source: Path) -> None:
    Image.new("L", (10, 12), 255).save(source / "stage1_train/image1/masks/001.png")


def remove_masks(source: Path) -> None:
    shutil.rmtree(source / "stage1_train/image3/masks")


def remove_image(source: Path) -> None:
    shutil.rmtree(source / "stage1_train/image3/images")


def flatten(source: Path) -> None:
    for i, file in enumerate(sorted(source.rglob("*.png"))):
        file.rename(source / f"{i}.png")


def remove(source: Path) -> None:
    shutil.rmtree(source)


def keep_one(source: Path) -> None:
    for i in range(1, 5):
        shutil.rmtree(source / "stage1_train" / f"image{i}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_mask, r"cannot read .*image1/masks/001\.png \(.*fetch the source anew"),
        (break_image, r"cannot read .*image2/images/image2\.png"),
        (resize_mask, r"mask .*image1/masks/001\.png has 10 × 12 pixels, its image 320 × 256"),
        (remove_masks, r"image image3 .* has 1 pictures and 0 masks"),
        (remove_image, r"image image3 .* has 0 pictures and 3 masks"),
        (flatten, r"not laid out as .*expected stage1_train/<ImageId>/images/<ImageId>\.png"),
        (remove, r"the source .* does not exist; fetch stage1_train"),
        (keep_one, r"a single image"),
    ],
)
def test_bad_source(source: Path, tmp_path: Path, damage, message: str) -> None:
    damage(source)
    with pytest.raises(UserError, match=message):
        prepare_nuclei(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*")), "nothing half-made is left"


def test_source_without_nuclei(tmp_path: Path) -> None:
    for name in "ab":
        write_sample(tmp_path / "source", name, [np.zeros((64, 64), bool)])
    with pytest.raises(UserError, match=r"no image of the train split of .* shows a nucleus"):
        prepare_nuclei(tmp_path / "source", tmp_path / "out")


def test_broken_zip(tmp_path: Path) -> None:
    (tmp_path / "train.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"train\.zip is neither a folder nor a whole zip file"):
        prepare_nuclei(tmp_path / "train.zip", tmp_path / "out")


def test_destination_in_use(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    prepare_nuclei(source, tmp_path / "out")  # an empty folder will do
    with pytest.raises(UserError, match="exists and is not an empty folder; choose a new one"):
        prepare_nuclei(source, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/out"):
        prepare_nuclei(source, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    "option", [{"val_fraction": 0.0}, {"val_fraction": 1.0}, {"tile": 8}, {"seed": -1}]
)
def test_bad_options(source: Path, tmp_path: Path, option: dict) -> None:
    (name, value) = next(iter(option.items()))
    with pytest.raises(UserError, match=f"{name}={value}"):
        prepare_nuclei(source, tmp_path / "out", **option)


def test_command(root: Path, source: Path, tmp_path: Path) -> None:
    command = [sys.executable, root / "tools" / "prepare_nuclei.py", source, "out"]
    options = ["--val-fraction", "0.4", "--tile", "128", "--seed", "3"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5/5" in done.stdout, "progress is shown"
    assert load(tmp_path / "out", "val")["info"]["tile"] == 128
    assert max(i["width"] for i in load(tmp_path / "out", "train")["images"]) <= 144
