"""Pictures of what is wrong in a data set: the image with the box and the outline at fault."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..errors import UserError
from ..files import whole_file
from ..visualization.sheet import Tile, sheet
from ..visualization.text import sans
from .coco_columns import fault_of_numbers
from .coco_rules import LARGEST_COORDINATE, RULES
from .faults import Fault
from .report import SetReport

_SIDE = 320  # pixels of a tile
_A_ROW = 4
_AROUND = 0.5  # share of the image's sides that is shown beyond it, at most
_BEYOND, _BOX, _OUTLINE, _INK = (214, 214, 214), (213, 94, 0), (0, 114, 178), (40, 40, 40)

Point = tuple[float, float]


def draw_pages(reports: Sequence[SetReport], folder: Path) -> list[Path]:
    """Writes a page for each set with faults that can be seen, and returns where.

    Raises:
        UserError: The folder cannot be written to.
    """
    pages = []
    for report in reports:
        page = draw_faults(report)
        if page is not None:
            name = re.sub(r"[^\w.-]+", "_", Path(report.option).name)
            with whole_file(folder / f"{name}.png") as temporary:
                Image.fromarray(page).save(temporary, "PNG")
            pages.append(folder / f"{name}.png")
    return pages


def draw_faults(report: SetReport) -> np.ndarray | None:
    """Draws up to four examples of each kind of fault that can be seen in an image.

    Boxes are orange, outlines of polygons blue; what lies beyond the image is grey.

    Returns:
        The page, (height, width, 3) uint8, RGB; None if there is nothing to show.
    """
    if report.coco is None:
        return None
    try:
        paths = report.coco.image_paths()
    except UserError:  # said in the report
        return None
    by_id = {
        entry.get("id"): number
        for number, entry in enumerate(report.coco.images)
        if isinstance(entry, dict) and isinstance(entry.get("id"), int)
    }
    rows = []
    for kind in RULES:
        tiles = []
        for fault in report.faults.examples.get(kind, ()):
            tile = _draw(fault, report, paths.get(by_id.get(fault.image_id)))
            tiles += [tile] if tile else []
            if len(tiles) == _A_ROW:
                break
        rows += [tiles] if tiles else []
    notes = ["box: orange, polygon: blue, beyond the image: grey"]
    return sheet(report.title, rows, notes=notes) if rows else None


def _draw(fault: Fault, report: SetReport, path: Path | None) -> Tile | None:
    """The image of a fault; None if it has none that can be read."""
    if path is None or fault.kind in ("missing image", "broken image"):
        return None
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except Exception:  # Pillow lets through whatever its decoders stumble over
        return None
    boxes, outlines = _shapes(fault, report)
    where = f"image {fault.image_id}" if fault.annotation_id is None else ""
    caption = f"{fault.kind}: {where or f'annotation {fault.annotation_id}'}"
    return Tile(np.asarray(_picture(image, boxes, outlines)), caption)


def _shapes(fault: Fault, report: SetReport) -> tuple[list[list[Point]], list[list[Point]]]:
    """The corners of the box and the points of the polygons, as far as they are numbers."""
    content: dict[str, Any] = report.coco.parsed.content
    if fault.annotation_id is None:
        entry = next(e for e in content["images"] if e.get("id") == fault.image_id)
        sides = [entry.get("width"), entry.get("height")]
        return ([_corners(0, 0, *sides)] if _drawable(sides) else []), []
    boxes, outlines = [], []
    for entry in content.get("annotations") or []:
        if not isinstance(entry, dict) or entry.get("id") != fault.annotation_id:
            continue
        box, masks = entry.get("bbox"), entry.get("segmentation")
        boxes += [_corners(*box)] if _drawable(box) and len(box) == 4 else []
        for part in masks if isinstance(masks, list) else ():
            if _drawable(part) and len(part) > 1:
                outlines.append(list(zip(part[0::2], part[1::2], strict=False)))
    return boxes, outlines


def _drawable(values: Any) -> bool:
    return bool(values) and fault_of_numbers(values, LARGEST_COORDINATE) is None


def _corners(x: float, y: float, width: float, height: float) -> list[Point]:
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def _picture(
    image: Image.Image, boxes: list[list[Point]], outlines: list[list[Point]]
) -> Image.Image:
    points = np.array([point for shape in (*boxes, *outlines) for point in shape]).reshape(-1, 2)
    size = np.array(image.size, float)
    low = np.minimum(points.min(axis=0, initial=0), 0).clip(min=-_AROUND * size)
    high = np.maximum(points.max(axis=0, initial=0), size).clip(max=(1 + _AROUND) * size)
    scale = _SIDE / (high - low).max()
    canvas = Image.new("RGB", tuple(np.ceil((high - low) * scale).astype(int).tolist()), _BEYOND)
    inside = image.resize(tuple(np.maximum(size * scale, 1).round().astype(int).tolist()))
    canvas.paste(inside, tuple(np.round(-low * scale).astype(int).tolist()))
    draw = ImageDraw.Draw(canvas)
    for shapes, colour in ((boxes, _BOX), (outlines, _OUTLINE)):
        for shape in shapes:
            drawn = ((np.array(shape) - low) * scale).clip(-(2**14), 2**14)
            closed = [tuple(point) for point in (*drawn, drawn[0])]
            draw.line(closed, fill=colour, width=3, joint="curve")
            x, y = drawn[0]
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)  # where a box of no size is
    if not len(points):
        draw.text((6, 6), "nothing to draw", _INK, sans(13))
    return canvas
