"""A small set in COCO's format and, computed without mmdet or pycocotools, how it is to be loaded.

The rules are those of ``halvit_mm.datasets.coco_rules``, written down a second time.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "emu")
SIZES = {"one.jpg": (60, 40), "two.png": (50, 50), "three.png": (64, 32), "four.jpg": (6, 40)}
MIN_SIZE = 8


def write_images(folder: Path) -> None:
    """Writes the pictures of :func:`sound_content`."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        picture = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "images" / name)


def sound_content() -> dict:
    """Polygons, RLE both ways, a crowd, category ids with gaps, out of order."""
    annotations = []

    def add(image: int, category: int, segmentation: object, mask: np.ndarray, crowd: int) -> None:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
        annotations.append(
            dict(
                id=len(annotations) + 1,
                image_id=image,
                category_id=category,
                bbox=box,
                area=int(mask.sum()),
                segmentation=segmentation,
                iscrowd=crowd,
            )
        )

    def polygons(image: int, category: int, parts: list[list[float]]) -> None:
        width, height = list(SIZES.values())[image - 1]
        add(image, category, parts, fill(parts, width, height), 0)

    polygons(1, 7, [[5, 5, 30.5, 8, 25, 30.25, 8, 28]])
    polygons(1, 2, [[40, 4, 55, 4, 55, 15, 40, 15], [40, 20, 55, 21, 50, 36]])
    polygons(2, 4, [[10, 10, 40, 40, 40, 10, 10, 40]])  # a bow tie
    disc = np.hypot(*(np.indices((50, 50)) - 25)) < 12
    add(2, 7, dict(size=[50, 50], counts=pack(runs(disc))), disc, 0)
    stripes = np.zeros((32, 64), bool)
    stripes[4:28:3, 10:50] = True
    add(3, 2, dict(size=[32, 64], counts=runs(stripes)), stripes, 1)
    add(3, 4, dict(size=[32, 64], counts=runs(stripes)), stripes, 0)
    polygons(3, 4, [[2, 2, 9, 2, 9, 20, 2, 20]])
    images = [
        dict(id=i, file_name=name, width=width, height=height)
        for i, (name, (width, height)) in enumerate(SIZES.items(), start=1)
    ]
    categories = [dict(id=i, name=n) for i, n in zip((7, 2, 4), CLASSES, strict=True)]
    info = dict(description="a small set", year=2024)
    content = dict(info=info, images=images, annotations=annotations, categories=categories)
    return copy.deepcopy(content)


def config(folder: Path, ann_file: Path, *, test_mode: bool) -> dict:
    """The config of the set, with masks."""
    meta = ("img_id", "img_path", "ori_shape", "img_shape")
    return dict(
        type="CocoDataset",
        data_root=str(folder),
        ann_file=str(ann_file),
        data_prefix=dict(img="images/"),
        metainfo=dict(classes=CLASSES),
        test_mode=test_mode,
        filter_cfg=dict(filter_empty_gt=True, min_size=MIN_SIZE),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="PackDetInputs", meta_keys=meta),
        ],
    )


@dataclass(frozen=True, eq=False)
class Mask:
    """(height, width) bool, and where rounding may decide otherwise."""

    inside: np.ndarray
    unsure: np.ndarray

    def agrees(self, other: np.ndarray) -> bool:
        return (
            other.shape == self.inside.shape
            and not ((other.astype(bool) != self.inside) & ~self.unsure).any()
        )


@dataclass(frozen=True, eq=False)
class Thing:
    """An annotation as it is to be loaded."""

    box: tuple[float, float, float, float]  # x1, y1, x2, y2
    label: int
    ignored: bool
    mask: Mask


def read(file: Path) -> dict:
    """A file as JSON has it; the last of two equal keys counts, which the check refuses."""
    return json.loads(file.read_text(encoding="utf-8"))


def expected_load(content: dict, *, test_mode: bool) -> dict[str, list[Thing]]:
    """By file and place in the list: what the data set is to hold."""
    labels = labels_of(content)
    loaded = {}
    for place, image in enumerate(content["images"]):
        own = [a for a in content.get("annotations", []) if a["image_id"] == image["id"]]
        if not test_mode:
            if min(image["width"], image["height"]) < MIN_SIZE:
                continue
            if not any(a["category_id"] in labels for a in own):
                continue
        things = [_thing(a, image, labels) for a in own if _is_loaded(a, image, labels)]
        loaded[f"{place} {image['file_name']}"] = things
    return loaded


def labels_of(content: dict) -> dict[int, int]:
    """The label of each category that is used."""
    used = [c["id"] for c in content["categories"] if c["name"] in CLASSES]
    return {category: label for label, category in enumerate(used)}


def counted_masks(content: dict) -> dict[int, Mask]:
    """By annotation: the masks that COCO's metric looks for, those of crowds included."""
    images = {image["id"]: image for image in content["images"]}
    labels = labels_of(content)
    return {
        a["id"]: mask_of(a["segmentation"], images[a["image_id"]])
        for a in content.get("annotations", [])
        if a["category_id"] in labels
    }


def mask_of(segmentation: object, image: dict) -> Mask:
    width, height = image["width"], image["height"]
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        inside = unpack(unpack_text(counts) if isinstance(counts, str) else counts, width, height)
        return Mask(inside, np.zeros_like(inside))
    parts = [part for part in segmentation if len(part) % 2 == 0 and len(part) >= 6]
    unsure = np.zeros((height, width), bool)
    for part in parts:
        unsure |= distance(part, width, height) < 1.2
    return Mask(fill(parts, width, height), unsure)


def _is_loaded(annotation: dict, image: dict, labels: dict[int, int]) -> bool:
    if annotation.get("ignore") or annotation["category_id"] not in labels:
        return False
    x, y, w, h = annotation["bbox"]
    overlaps = x < image["width"] and y < image["height"] and x + w > 0 and y + h > 0
    return overlaps and w >= 1 and h >= 1 and annotation["area"] > 0


def _thing(annotation: dict, image: dict, labels: dict[int, int]) -> Thing:
    x, y, w, h = annotation["bbox"]
    segmentation = annotation["segmentation"]
    drawn = isinstance(segmentation, dict) or any(
        len(part) % 2 == 0 and len(part) >= 6 for part in segmentation
    )
    mask = mask_of(segmentation, image)
    if not drawn:  # what stands there is no one's business
        mask = Mask(mask.inside, np.ones_like(mask.inside))
    return Thing(
        (x, y, x + w, y + h),
        labels[annotation["category_id"]],
        bool(annotation.get("iscrowd", 0)) or not drawn,
        mask,
    )


def fill(parts: list[list[float]], width: int, height: int) -> np.ndarray:
    """What the polygons cover: each by the even-odd rule, at the middles of pixels."""
    y, x = np.indices((height, width)) + 0.5
    covered = np.zeros((height, width), bool)
    for part in parts:
        inside = np.zeros((height, width), bool)
        for x1, y1, x2, y2 in _edges(part):
            if y1 != y2:
                crosses = (y1 > y) != (y2 > y)
                inside ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
        covered |= inside
    return covered


def distance(part: list[float], width: int, height: int) -> np.ndarray:
    """(height, width), from the middle of each pixel to the outline."""
    y, x = np.indices((height, width)) + 0.5
    nearest = np.full((height, width), np.inf)
    for x1, y1, x2, y2 in _edges(part):
        length = max((x2 - x1) ** 2 + (y2 - y1) ** 2, 1e-12)
        along = (((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / length).clip(0, 1)
        away = np.hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1))
        nearest = np.minimum(nearest, away)
    return nearest


def _edges(part: list[float]) -> list[tuple[float, float, float, float]]:
    points = list(zip(part[0::2], part[1::2], strict=True))
    return [(*a, *b) for a, b in zip(points, points[1:] + points[:1], strict=True)]


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of runs down the columns, the first one of pixels outside."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff([0, *changes, len(flat)]).tolist()


def unpack(counts: list[int], width: int, height: int) -> np.ndarray:
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


def pack(counts: list[int]) -> str:
    """COCO's text for counts, letter by letter."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            last = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if last else 32))
            if last:
                break
    return text


def unpack_text(text: str) -> list[int]:
    """Undoes :func:`pack`."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    return counts
