"""Rows of small pictures with captions on one page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .text import sans, shorten_end

_INK, _FAINT = (40, 40, 40), (110, 110, 110)
_MARGIN, _GAP, _CAPTION, _HEADING = 16, 10, 22, 34
_FONT, _TITLE_FONT = 13, 18


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture with a line of text under it.

    Attributes:
        picture: (height, width, 3) uint8, RGB.
        caption: The line.
    """

    picture: np.ndarray
    caption: str


def sheet(title: str, rows: Sequence[Sequence[Tile]], *, notes: Sequence[str] = ()) -> np.ndarray:
    """Sets rows of tiles under a title.

    Args:
        title: Heading; it is shortened to the width of the page.
        rows: All tiles of about the same size.
        notes: Lines of small text below the title.

    Returns:
        (height, width, 3) uint8, RGB, white between the tiles.
    """
    tiles = [tile for row in rows for tile in row]
    side = max(tile.picture.shape[1] for tile in tiles)
    font, bold = sans(_FONT), sans(_TITLE_FONT, bold=True)
    columns = max(len(row) for row in rows)
    texts = max((font.getlength(note) for note in notes), default=0)
    width = 2 * _MARGIN + max(columns * (side + _GAP) - _GAP, round(texts), 480)
    heights = [max(tile.picture.shape[0] for tile in row) for row in rows]
    top = _MARGIN + _HEADING + len(notes) * _CAPTION
    height = top + sum(heights) + len(rows) * (_CAPTION + _GAP) + _MARGIN - _GAP
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)

    heading = shorten_end(title, width - 2 * _MARGIN, bold)
    draw.text((_MARGIN, _MARGIN + _HEADING / 2 - 6), heading, _INK, bold, anchor="lm")
    for i, note in enumerate(notes):
        draw.text((_MARGIN, _MARGIN + _HEADING + i * _CAPTION + 2), note, _FAINT, font, anchor="lm")
    for row, row_height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = _MARGIN + column * (side + _GAP)
            page.paste(Image.fromarray(tile.picture), (left, top))
            caption = shorten_end(tile.caption, side, font)
            draw.text((left, top + row_height + _CAPTION / 2), caption, _INK, font, anchor="lm")
        top += row_height + _CAPTION + _GAP
    return np.asarray(page)


def wrapped(tiles: Sequence[Tile], columns: int) -> list[Sequence[Tile]]:
    """Tiles in rows of ``columns``."""
    return [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
