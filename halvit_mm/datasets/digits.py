"""Instance segmentation of handwritten digits, made on the spot.

scikit-learn ships 1797 real handwritten digits of 8 × 8 pixels. Scattered over textured pictures at
many sizes, turned, sheared and overlapping, they make a small set with exact masks that a detector
learns in minutes: enough to see a whole pipeline work, without a download.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from ..errors import UserError
from ..files import staged_folder
from .coco_files import mask_annotation, write_instances

CLASSES = tuple("0123456789")

_FORMAT = 1  # raise it when the pictures change, so that sets on disk are made anew
_DIGITS_PER_IMAGE = (3, 7)
_HEIGHT = (20.0, 56.0)  # of a digit, in pixels
_MAX_TURN, _MAX_SHEAR = np.radians(12), 0.2
_VAL_SHARE = 0.2  # of the source digits of each class
_STROKE = 6.5  # grey value, of 16, at which a stroke begins
_MIN_VISIBLE = 0.7  # share of a digit that later ones must leave to be seen
_TRIES = 30  # places tried for one digit


def make_digits(
    root: str | Path,
    *,
    num_train: int = 600,
    num_val: int = 100,
    image_size: int = 128,
    seed: int = 0,
) -> Path:
    """Makes the set in ``root`` unless it is there already.

    ``root`` gets ``train/*.png``, ``val/*.png``, ``annotations/instances_{train,val}.json`` (COCO's
    format, categories '0' … '9' with ids 1 … 10, masks as compressed RLE) and ``dataset.json``
    (the arguments). Where digits overlap, a mask is what can be seen. No source digit is in both
    splits; ``source`` in each annotation is its index in scikit-learn's set. The same arguments
    give the same files.

    Args:
        root: Folder of the set. A set made with other arguments is replaced.
        num_train: Number of training images.
        num_val: Number of validation images.
        image_size: Side of the images in pixels, at least 96.
        seed: Of everything that is drawn.

    Returns:
        ``root``, absolute.

    Raises:
        UserError: An argument is out of range, ``root`` holds something else or cannot be written.
    """
    root = Path(root).expanduser().resolve()
    made_by = {
        "generator": "halvit_mm.datasets.digits",
        "format": _FORMAT,
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "seed": seed,
    }
    if min(num_train, num_val) < 1:
        raise UserError(f"num_train={num_train}, num_val={num_val}: each needs at least one image")
    if image_size < 96:
        raise UserError(f"image_size={image_size} leaves no room for digits; choose 96 or more")
    if seed < 0:
        raise UserError(f"seed={seed} is negative; choose 0 or more")
    if _is_made(root, made_by):
        return root

    glyphs, labels, sources = _load_glyphs(seed)
    with staged_folder(root) as folder:
        for split, (name, count) in enumerate({"train": num_train, "val": num_val}.items()):
            (folder / name).mkdir()
            images, annotations = [], []
            for i in range(1, count + 1):
                # Each image has its own stream, so it does not depend on how many there are.
                rng = np.random.default_rng([seed, split, i])
                picture, digits = _draw_image(rng, image_size, glyphs, sources[name])
                file_name = f"{i:05d}.png"
                (folder / name / file_name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
                images.append(
                    {"id": i, "file_name": file_name, "width": image_size, "height": image_size}
                )
                annotations += [
                    {
                        "image_id": i,
                        "category_id": int(labels[digit.source]) + 1,
                        "source": digit.source,
                        **mask_annotation(digit.mask),
                    }
                    for digit in digits
                ]
            write_instances(
                folder / "annotations" / f"instances_{name}.json",
                info={"description": "scikit-learn's handwritten digits, scattered", **made_by},
                categories=list(CLASSES),
                images=images,
                annotations=annotations,
            )
        (folder / "dataset.json").write_text(json.dumps(made_by, indent=2) + "\n")
    return root


def _is_made(root: Path, made_by: dict) -> bool:
    """Whether ``root`` holds this very set, whole; a :class:`UserError` if it is not ours."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
        ours = found["generator"] == made_by["generator"]
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(
            f"{root} already holds something that is not a set of digits; choose another folder"
        )
    return found == made_by and all(
        (root / "annotations" / f"instances_{split}.json").is_file()
        and len(list((root / split).glob("*.png"))) == made_by[f"num_{split}"]
        for split in ("train", "val")
    )


def _load_glyphs(seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The digits (1797, 8, 8) with values 0 … 16, their labels, and the indices of each split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    digits = load_digits()
    rng = np.random.default_rng(seed)
    splits: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    for label in range(len(CLASSES)):
        indices = rng.permutation(np.flatnonzero(digits.target == label))
        num_val = round(_VAL_SHARE * len(indices))
        splits["val"].append(indices[:num_val])
        splits["train"].append(indices[num_val:])
    return digits.images, digits.target, {k: np.concatenate(v) for k, v in splits.items()}


@dataclass
class _Digit:
    source: int
    mask: np.ndarray  # (size, size), bool: what can be seen of it
    area: int  # in pixels, when nothing covered it


def _draw_image(
    rng: np.random.Generator, size: int, glyphs: np.ndarray, sources: np.ndarray
) -> tuple[np.ndarray, list[_Digit]]:
    """A picture (size, size, 3), BGR, uint8, and what is in it."""
    dark = bool(rng.random() < 0.5)
    picture = _draw_background(rng, size, dark)
    digits: list[_Digit] = []
    for _ in range(rng.integers(*_DIGITS_PER_IMAGE, endpoint=True)):
        source = int(rng.choice(sources))
        opacity = _place(rng, size, glyphs[source], digits)
        if opacity is None:
            continue
        covered = opacity >= 0.5
        for digit in digits:
            digit.mask &= ~covered
        digits.append(_Digit(source, covered, np.count_nonzero(covered)))
        # A soft rim, dark round light digits and light round dark ones, sets neighbours apart.
        rim = cv2.GaussianBlur(opacity, (0, 0), 2)[..., None]
        picture += 0.5 * rim * ((0 if dark else 255) - picture)
        colour = _colour(rng, (175, 250) if dark else (5, 85), vivid=0.6)
        picture += opacity[..., None] * (colour - picture)
    picture += rng.normal(0, rng.uniform(1, 4), picture.shape)
    return np.clip(picture, 0, 255).round().astype(np.uint8), digits


def _place(
    rng: np.random.Generator, size: int, glyph: np.ndarray, digits: list[_Digit]
) -> np.ndarray | None:
    """The opacity (size, size) of a digit somewhere in the picture; None if no place was found.

    A digit lies inside the picture and leaves enough of every other to be seen. Looking for another
    place, rather than dropping what it would hide, leaves no digit in the picture without a label.
    """
    for _ in range(_TRIES):
        stroke = _render(rng, glyph)
        free = size - np.array(stroke.shape)
        if min(free) < 0:
            continue
        y, x = rng.integers(free, endpoint=True)
        opacity = np.zeros((size, size))
        opacity[y : y + stroke.shape[0], x : x + stroke.shape[1]] = stroke
        uncovered = opacity < 0.5
        if all((d.mask & uncovered).sum() >= _MIN_VISIBLE * d.area for d in digits):
            return opacity
    return None


def _render(rng: np.random.Generator, glyph: np.ndarray) -> np.ndarray:
    """The opacity, from 0 to 1, of a glyph (8, 8) drawn large, sheared and turned; cropped."""
    scale = np.exp(rng.uniform(*np.log(_HEIGHT))) / len(glyph)
    turn, shear = rng.uniform(-1, 1, 2) * (_MAX_TURN, _MAX_SHEAR)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    # From pixels of the picture (row, column) to those of the glyph, about the centres.
    matrix = np.array([[1, 0], [shear, 1]]) @ rotation / scale
    side = int(np.ceil(1.6 * scale * len(glyph)))
    padded = np.pad(glyph, 2)
    offset = (len(padded) - 1) / 2 - matrix @ np.full(2, (side - 1) / 2)
    grey = ndimage.affine_transform(padded, matrix, offset, (side, side), order=3)
    # About one pixel of the picture from transparent to opaque, at any scale.
    opacity = np.clip(0.5 + (grey - _STROKE) * scale / 12, 0, 1)
    rows, columns = (np.flatnonzero(opacity.any(axis)) for axis in (1, 0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _draw_background(rng: np.random.Generator, size: int, dark: bool) -> np.ndarray:
    """A picture (size, size, 3) of a gradient, clouds, and shapes that are not digits."""
    levels = (20, 90) if dark else (150, 235)
    angle = rng.uniform(0, 2 * np.pi)
    row, column = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    ramp = 0.5 + (row * np.sin(angle) + column * np.cos(angle)) / (2 * np.sqrt(2))
    first, second = _colour(rng, levels), _colour(rng, levels)
    picture = first + ramp[..., None] * (second - first)
    for cells, strength in ((4, 10), (16, 6)):
        clouds = rng.normal(0, strength, (cells, cells, 1)) + rng.normal(0, 2, (cells, cells, 3))
        picture += cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)

    shapes = picture.copy()
    for _ in range(rng.integers(2, 6)):
        colour = _colour(rng, levels).tolist()
        start, end, axes = (tuple(map(int, rng.integers(0, size, 2))) for _ in range(3))
        if rng.random() < 0.5:
            cv2.line(shapes, start, end, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        else:
            thickness = int(rng.choice([-1, 2, 3]))
            cv2.ellipse(shapes, start, axes, float(rng.uniform(0, 180)), 0, 360, colour, thickness)
    return 0.4 * picture + 0.6 * cv2.GaussianBlur(shapes, (0, 0), 0.8)


def _colour(rng: np.random.Generator, levels: tuple[int, int], vivid: float = 0.35) -> np.ndarray:
    """A random BGR colour (3,) of a brightness within ``levels`` (of 255); grey if not vivid."""
    hue = 3 * rng.dirichlet((2, 2, 2))  # 1 on average
    return np.clip(rng.uniform(*levels) * (1 - vivid + vivid * hue), 0, 255)
