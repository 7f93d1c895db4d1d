"""Text of a known width for pictures that Pillow draws."""

from functools import cache
from pathlib import Path

from PIL import ImageFont


@cache
def sans(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along and which knows many scripts."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def shorten_start(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """Cuts characters off the start, where a path says least, until the text fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"


def shorten_end(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """Cuts characters off the end, where a name says least, until the text fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1].rstrip()
    return f"{text}…"
