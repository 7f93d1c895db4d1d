"""Colours that people with any kind of colour vision can tell apart."""

import colorsys

Colour = tuple[int, int, int]

# The palette of Okabe and Ito, "Color Universal Design" (2008).
_ORANGE = (230, 159, 0)
_SKY_BLUE = (86, 180, 233)
_GREEN = (0, 158, 115)
_YELLOW = (240, 228, 66)
_BLUE = (0, 114, 178)
_VERMILION = (213, 94, 0)
_PURPLE = (204, 121, 167)

# Dark ones first on white paper, bright ones first on photographs.
_LINES = (_BLUE, _ORANGE, _GREEN, _VERMILION, _PURPLE, _SKY_BLUE)
_CLASSES = (_ORANGE, _SKY_BLUE, _GREEN, _PURPLE, _VERMILION, _YELLOW, _BLUE)

_GOLDEN_RATIO = 0.618034


def line_colour(index: int) -> Colour:
    """Colour of a line on white, as (red, green, blue) from 0 to 255."""
    return _LINES[index] if index < len(_LINES) else _any_number(index)


def class_colour(label: int) -> Colour:
    """Colour of a class on images, as (red, green, blue) from 0 to 255."""
    return _CLASSES[label] if label < len(_CLASSES) else _any_number(label)


def _any_number(index: int) -> Colour:
    """Goes round the circle of hues by the golden ratio: any number of them lies spread out."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.75, (0.95, 0.7)[index % 2])
    return round(255 * red), round(255 * green), round(255 * blue)
