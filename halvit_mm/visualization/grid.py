"""Drawing instances on images and images into a grid, in Pillow alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from .colours import Colour, class_colour
from .text import sans, shorten_start

#: Longest side of an image in the grid, in pixels. Small images are enlarged to it, so that the
#: labels, whose size is fixed, hide little of them.
TILE = 400

_FONT_SIZE = 12
_MASK_ALPHA = 0.45
_INK: Colour = (40, 40, 40)
_GAP, _PAIR_GAP, _MARGIN = 8, 32, 20
_LINE = 24

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One object to draw.

    Attributes:
        label: Number of its class; picks the colour.
        name: What to call it; nothing where all are alike.
        box: (x1, y1, x2, y2) in pixels of the original image.
        score: Confidence from 0 to 1; None for ground truth.
        mask: (H, W), non-zero inside, of the original image; None if there is none.
    """

    label: int
    name: str
    box: Box
    score: float | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image seen twice, with a line of text under each side."""

    left: Image.Image
    right: Image.Image
    left_caption: str
    right_caption: str


def draw_instances(
    image: Image.Image, instances: Sequence[Instance], *, side: int = TILE
) -> Image.Image:
    """Draws masks, boxes and labels on a copy of ``image`` whose longest side is ``side`` pixels.

    Small objects come on top of large ones. A label that would hide another one is shortened to
    its score or left out; confident and large objects get theirs first. Lines and letters grow
    with the square root of ``side``, as large pictures are looked at from near as well.
    """
    scale = side / max(image.size)
    growth = (side / TILE) ** 0.5
    font = sans(round(_FONT_SIZE * growth))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    kernel = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    canvas = image.convert("RGB").resize(size, kernel)

    by_area = sorted(instances, key=_area, reverse=True)
    for instance in by_area:
        if instance.mask is not None:
            _draw_mask(canvas, instance.mask, class_colour(instance.label))
    draw = ImageDraw.Draw(canvas)
    for instance in by_area:
        box = _inside(instance.box, scale, size)
        draw.rectangle(box, outline=class_colour(instance.label), width=round(2 * growth))
    placed: list[Box] = []
    for instance in sorted(by_area, key=lambda i: i.score or 0.0, reverse=True):
        _draw_label(draw, instance, _inside(instance.box, scale, size), size, placed, font)
    return canvas


def compose(pairs: Sequence[Pair], *, titles: tuple[str, str]) -> Image.Image:
    """Sets pairs into a grid that is about as high as wide, under a header row of ``titles``."""
    columns = max(1, round((len(pairs) / 2) ** 0.5))
    rows = [pairs[i : i + columns] for i in range(0, len(pairs), columns)]
    heights = [max(pair.left.height for pair in row) for row in rows]
    pair_width = 2 * TILE + _GAP
    width = columns * (pair_width + _PAIR_GAP) - _PAIR_GAP + 2 * _MARGIN
    height = sum(heights) + len(rows) * (_LINE + _GAP) + _LINE + 2 * _MARGIN
    grid = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(grid)

    def lefts(column: int) -> tuple[int, int]:
        left = _MARGIN + column * (pair_width + _PAIR_GAP)
        return left, left + TILE + _GAP

    for column in range(columns):
        for left, title in zip(lefts(column), titles, strict=True):
            centre = (left + TILE / 2, _MARGIN + _LINE / 2 - _GAP / 2)
            draw.text(centre, title, _INK, sans(_FONT_SIZE + 4, bold=True), anchor="mm")
    top = _MARGIN + _LINE
    for row, row_height in zip(rows, heights, strict=True):
        for column, pair in enumerate(row):
            sides = ((pair.left, pair.left_caption), (pair.right, pair.right_caption))
            for left, (tile, caption) in zip(lefts(column), sides, strict=True):
                x = left + (TILE - tile.width) // 2
                grid.paste(tile, (x, top + row_height - tile.height))
                text = shorten_start(caption, TILE, font := sans(_FONT_SIZE))
                middle = (left + TILE / 2, top + row_height + _LINE / 2)
                draw.text(middle, text, _INK, font, anchor="mm")
        top += row_height + _LINE + _GAP
    return grid


def _area(instance: Instance) -> float:
    x1, y1, x2, y2 = instance.box
    return (x2 - x1) * (y2 - y1)


def _inside(box: Box, scale: float, size: tuple[int, int]) -> Box:
    """The box in pixels of the tile, cut off at its edges.

    The corners are put in order: an untrained detector may exchange them, which Pillow refuses.
    """
    xs = sorted(min(max(scale * x, 0), size[0] - 1) for x in box[::2])
    ys = sorted(min(max(scale * y, 0), size[1] - 1) for y in box[1::2])
    return xs[0], ys[0], xs[1], ys[1]


def _draw_mask(canvas: Image.Image, mask: np.ndarray, fill: Colour) -> None:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return
    inside = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    # Only the part of the picture that holds the mask, with as much around it as blurring reaches.
    across, down = canvas.width / inside.width, canvas.height / inside.height
    part = (
        max(0, floor((columns[0] - 1) * across) - 2),
        max(0, floor((rows[0] - 1) * down) - 2),
        min(canvas.width, ceil((columns[-1] + 2) * across) + 2),
        min(canvas.height, ceil((rows[-1] + 2) * down) + 2),
    )
    source = (
        part[0] / across,
        part[1] / down,
        min(part[2] / across, inside.width),
        min(part[3] / down, inside.height),
    )
    size = (part[2] - part[0], part[3] - part[1])
    inside = inside.resize(size, Image.Resampling.BILINEAR, box=source)
    # Enlarging blurs the edge; this makes it steep again, about a pixel wide.
    steepness = max(1.0, across)
    inside = inside.point(lambda value: round((value - 127.5) * steepness + 127.5))
    rim = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(3)))
    canvas.paste(fill, part, inside.point(lambda value: round(value * _MASK_ALPHA)))
    canvas.paste(fill, part, rim)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    instance: Instance,
    box: Box,
    size: tuple[int, int],
    placed: list[Box],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Writes the label above its box, inside at the top or below it, wherever there is room.

    ``placed`` collects where labels stand.
    """
    score = "" if instance.score is None else f"{instance.score:.2f}"
    x1, y1, _, y2 = box
    height = round(font.size) + 4
    for text in filter(None, (f"{instance.name} {score}".strip(), score)):
        width = font.getlength(text) + 6
        x = max(0.0, min(x1, size[0] - width))
        for y in (y1 - height, y1, y2):
            spot = (x, y, x + width, y + height)
            if y < 0 or spot[3] > size[1] or any(_overlap(spot, other) for other in placed):
                continue
            placed.append(spot)
            fill = class_colour(instance.label)
            draw.rectangle(spot, fill=fill)
            middle = (x + width / 2, y + height / 2)
            draw.text(middle, text, _readable_on(fill), font, anchor="mm")
            return


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _readable_on(background: Colour) -> str:
    red, green, blue = background
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
