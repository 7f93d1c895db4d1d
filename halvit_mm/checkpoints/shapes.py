"""What a model's sizes are, read off its weights."""

import math
import re

from ..errors import UserError
from .reading import StateDict

AGAIN = "download the file again, or give it as its model saved it"


def shape(weights: StateDict, name: str, ndim: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there and have so many axes, none of them empty."""
    if name not in weights:
        raise UserError(f"the weights are not complete: missing {name}; download the file again")
    found = tuple(weights[name].shape)
    if len(found) != ndim or 0 in found:
        raise UserError(f"{name} is {found}, which has not the {ndim} axes it should: {AGAIN}")
    return found


def count(weights: StateDict, pattern: str) -> int:
    """One more than the highest number in a name's beginning, so that what lacks is counted."""
    numbers = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def patches(weights: StateDict, name: str) -> tuple[int, int, int]:
    """Width, channels of the images and side of a patch in pixels, of the patches' convolution."""
    dim, in_channels, height, width = shape(weights, name, 4)
    if height != width:
        raise UserError(
            f"{name} has patches of {height} × {width} pixels: give a model with square ones"
        )
    return dim, in_channels, width


def mlp_ratio(hidden: int, dim: int) -> float:
    """The multiple of ``dim`` from which backbones get a hidden layer of just this width."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)
