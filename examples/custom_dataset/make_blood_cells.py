"""Draws pictures that look like stained blood smears, with boxes round their cells.

python examples/custom_dataset/make_blood_cells.py data/cells

Stands in for a data set of your own. Classes, proportions and numbers are like those of BCCD:
many red cells that overlap, about one white cell and one or two platelets a picture. Stains and
light vary, and specks of dye look like small platelets. The annotations are boxes without masks.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from halvit_mm.cli import run
from halvit_mm.datasets.coco_files import write_instances
from halvit_mm.errors import UserError
from halvit_mm.files import staged_folder

CLASSES = ["RBC", "WBC", "Platelets"]
WIDTH, HEIGHT = 192, 144

# How much light a stain takes from red, green and blue: optical densities, which add up where
# cells overlap.
_EOSIN = np.array([0.03, 0.34, 0.22])  # red cells
_AZURE = np.array([0.22, 0.16, 0.04])  # the body of white cells
_PURPLE = np.array([0.75, 1.10, 0.45])  # nuclei, platelets

_RED, _WHITE, _PLATELET = range(3)
_RADIUS = {_RED: (12, 17), _WHITE: (20, 30), _PLATELET: (3.5, 6)}  # in pixels
_COUNT = {_WHITE: (0, 2), _RED: (7, 17), _PLATELET: (0, 3)}  # white cells first: least room
_APART = {_RED: 0.6, _WHITE: 0.85, _PLATELET: 0.75}  # of two radii, between centres, at least
_TRIES = 20

_ROWS, _COLUMNS = np.ogrid[:HEIGHT, :WIDTH]


class Cell(NamedTuple):
    """A cell in a picture.

    Attributes:
        kind: Index in :data:`CLASSES`.
        centre: Row and column of its middle.
        radius: In pixels.
        mask: Where it is (height, width), bool.
        density: What it takes of red, green and blue light (height, width, 3).
    """

    kind: int
    centre: np.ndarray
    radius: float
    mask: np.ndarray
    density: np.ndarray


def draw_picture(rng: np.random.Generator) -> tuple[Image.Image, list[Cell]]:
    """A picture and the cells in it."""
    stains = [stain * rng.normal(1, 0.12, 3) for stain in (_EOSIN, _AZURE, _PURPLE)]
    strength = rng.uniform(0.7, 1.25)
    cells: list[Cell] = []
    for kind, (least, most) in _COUNT.items():
        for _ in range(rng.integers(least, most, endpoint=True)):
            cell = _place(rng, kind, stains, cells)
            if cell is not None:
                cells.append(cell)
    density = strength * sum((cell.density for cell in cells), np.zeros((HEIGHT, WIDTH, 3)))
    for _ in range(rng.integers(0, 6)):  # specks of dye
        r, _ = _polar(rng, rng.uniform(0, (HEIGHT, WIDTH)), rng.uniform(0.7, 1.6))
        density += _soft(1.2 - r)[..., None] * stains[2]

    # Light falls unevenly and has a tint; the smear itself takes a little of it.
    slope = rng.uniform(-0.12, 0.12, 2)
    light = 1 + slope[0] * (_ROWS / HEIGHT - 0.5) + slope[1] * (_COLUMNS / WIDTH - 0.5)
    tint = rng.uniform((215, 205, 195), (245, 238, 235))
    picture = light[..., None] * tint * np.exp(-density)
    blurred = _image(picture).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    return _image(blurred + rng.normal(0, rng.uniform(2, 6), picture.shape)), cells


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _place(
    rng: np.random.Generator, kind: int, stains: list[np.ndarray], cells: list[Cell]
) -> Cell | None:
    """A cell where there is room for it, or None if no place is found."""
    for _ in range(_TRIES):
        centre = rng.uniform(2, (HEIGHT - 2, WIDTH - 2))
        radius = rng.uniform(*_RADIUS[kind])
        if all(
            np.linalg.norm(centre - other.centre)
            > max(_APART[kind], _APART[other.kind]) * (radius + other.radius)
            for other in cells
        ):
            r, theta = _polar(rng, centre, radius)
            density = _density(rng, kind, stains, centre, radius, r, theta)
            return Cell(kind, centre, radius, r < 1, density)
    return None


def _polar(
    rng: np.random.Generator, centre: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel its distance from a cell's centre, 1 at the cell's rim, and its direction.

    The rim is an ellipse with some waves.
    """
    rows, columns = _ROWS - centre[0], _COLUMNS - centre[1]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.18)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    theta = np.arctan2(across, along)
    rim = 1 + sum(
        rng.normal(0, 0.06 / k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5)
    )
    return np.hypot(along / stretch, across * stretch) / radius / rim, theta


def _density(
    rng: np.random.Generator,
    kind: int,
    stains: list[np.ndarray],
    centre: np.ndarray,
    radius: float,
    r: np.ndarray,
    theta: np.ndarray,
) -> np.ndarray:
    """What a cell takes of the light (height, width, 3)."""
    eosin, azure, purple = stains
    inside = _soft((1 - r) * radius)[..., None]
    if kind == _RED:  # thinner in the middle
        pallor = rng.uniform(0.2, 0.75) * np.exp(-((r / rng.uniform(0.35, 0.55)) ** 2))
        return inside * (1 - pallor)[..., None] * eosin * rng.uniform(0.85, 1.15)
    if kind == _PLATELET:  # granules, densest in the middle
        grain = rng.uniform(0.3, 1.0, r.shape) * np.exp(-(r**2))
        return inside * (0.15 + 0.55 * grain)[..., None] * purple
    # A round nucleus, or one of two to four lobes.
    nucleus = np.zeros(r.shape)
    lobes = rng.integers(1, 5)
    turn = rng.uniform(0, 2 * np.pi)
    for i in range(lobes):
        size = rng.uniform(0.62, 0.8) if lobes == 1 else rng.uniform(0.34, 0.46)
        away = 0.12 if lobes == 1 else 0.42
        direction = turn + 2 * np.pi * i / max(lobes, 3)
        middle = centre + away * radius * np.array([np.sin(direction), np.cos(direction)])
        lobe, _ = _polar(rng, middle, size * radius)
        nucleus = np.maximum(nucleus, _soft((1 - lobe) * size * radius))
    grain = 1 + 0.15 * np.cos(3 * theta + 9 * r) + rng.normal(0, 0.08, r.shape)
    body = azure * rng.uniform(0.8, 1.3) + 0.3 * eosin
    return inside * (body + (nucleus * grain)[..., None] * purple)


def _soft(pixels_inside: np.ndarray) -> np.ndarray:
    """From 0 outside to 1 inside, over about two pixels."""
    return np.clip(0.5 + pixels_inside / 2, 0, 1)


def boxes(cells: list[Cell]) -> Iterator[dict]:
    """COCO's entries of cells, without masks."""
    for cell in cells:
        rows, columns = (np.flatnonzero(cell.mask.any(axis)) for axis in (1, 0))
        x, y = int(columns[0]), int(rows[0])
        width, height = int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
        yield {
            "category_id": cell.kind + 1,
            "bbox": [x, y, width, height],
            "area": width * height,
            "iscrowd": 0,
        }


def make_blood_cells(root: Path, *, num_train: int, num_val: int, seed: int) -> None:
    """Writes ``root/images/*.jpg`` and ``root/annotations/{train,val}.json``.

    Args:
        root: A folder that is new or empty.
        num_train: Number of training pictures, at least one.
        num_val: Number of validation pictures, at least one.
        seed: Of all that is drawn, not negative.

    Raises:
        UserError: ``root`` holds something already, or a number is out of range.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} already holds something; remove it or choose another folder")
    if min(num_train, num_val) < 1 or seed < 0:
        raise UserError(
            f"--num-train {num_train} --num-val {num_val} --seed {seed}: "
            "each set needs a picture, and a seed is not negative"
        )
    with staged_folder(root.resolve()) as folder:
        (folder / "images").mkdir()
        for split, (name, count) in enumerate({"train": num_train, "val": num_val}.items()):
            images, annotations = [], []
            for i in range(1, count + 1):
                picture, cells = draw_picture(np.random.default_rng([seed, split, i]))
                file_name = f"{name}_{i:04d}.jpg"
                picture.save(folder / "images" / file_name, quality=92)
                images.append(dict(id=i, file_name=file_name, width=WIDTH, height=HEIGHT))
                annotations += [dict(image_id=i, **box) for box in boxes(cells)]
            write_instances(
                folder / "annotations" / f"{name}.json",
                info={"description": "drawn blood cells", "seed": seed},
                categories=CLASSES,
                images=images,
                annotations=annotations,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, help="a new folder for the set")
    parser.add_argument("--num-train", type=int, default=300, help="training pictures")
    parser.add_argument("--num-val", type=int, default=64, help="validation pictures")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_blood_cells(**vars(args))
    print(f"the pictures are in {args.root}")


if __name__ == "__main__":
    run(main)
