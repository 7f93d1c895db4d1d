"""An image as a model sees it: resized, cropped, padded, and where that lies in the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..inference.pipeline import collate, prepare_one

if TYPE_CHECKING:
    from ..inference import LoadedModel


@dataclass(frozen=True, eq=False)
class View:
    """An image on its way into a model.

    Attributes:
        inputs: What the backbone takes (1, 3, height, width).
        samples: The data samples that belong to it.
        size: Height and width of what the image fills of ``inputs``; the rest is padding.
        box: Left, top, right and bottom of that part in pixels of the image.
        image: That part of the image (height, width, 3) uint8, RGB, as sharp as it was given.
    """

    inputs: Tensor
    samples: Sequence[Any]
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    image: np.ndarray

    def place(self, y: float, x: float) -> tuple[float, float]:
        """A place in the image, in its pixels → the same one in ``inputs``.

        Raises:
            UserError: The model does not see this place.
        """
        left, top, right, bottom = self.box
        if not (left <= x < right and top <= y < bottom):
            raise UserError(
                f"--query {y:g},{x:g}: the model does not see this place; it sees rows {top:.0f} "
                f"to {bottom - 1:.0f} and columns {left:.0f} to {right - 1:.0f} of this image"
            )
        height, width = self.size
        return (y - top) / (bottom - top) * height, (x - left) / (right - left) * width

    def covers(self, stride: float) -> tuple[float, float]:
        """How many rows and columns of a map the image fills, with ``stride`` pixels to a place."""
        return self.size[0] / stride, self.size[1] / stride

    def cut(self, maps: Tensor, stride: float) -> Tensor:
        """Maps (…, H, W) without what lies in padding, on the CPU in double precision."""
        rows, columns = (ceil(length) for length in self.covers(stride))
        return maps[..., :rows, :columns].double().cpu()


def view(loaded: "LoadedModel", image: np.ndarray) -> View:
    """Puts an image through the test pipeline of a model's config.

    Args:
        loaded: The model.
        image: (height, width, 3) uint8, RGB.

    Raises:
        UserError: The pipeline cannot process an image of this size.
    """
    sample = prepare_one(loaded, image)
    size = tuple(sample["inputs"].shape[1:])
    data = loaded.model.data_preprocessor(collate(loaded, [sample]), False)
    (top, bottom), (left, right) = (_seen(loaded, image.shape, axis) for axis in (0, 1))
    rows = slice(round(top), max(round(bottom), round(top) + 1))
    columns = slice(round(left), max(round(right), round(left) + 1))
    return View(
        inputs=data["inputs"],
        samples=data["data_samples"],
        size=size,
        box=(left, top, right, bottom),
        image=image[rows, columns],
    )


def _seen(loaded: "LoadedModel", shape: tuple[int, ...], axis: int) -> tuple[float, float]:
    """Where what the pipeline leaves of an image begins and ends along one axis.

    Pipelines do not tell what they cut off. So an image whose brightness says where each of its
    pixels lies goes through, and a line is put through what comes out.
    """
    length = shape[axis]
    shades = np.rint(np.linspace(0, 255, length)).astype(np.uint8)
    ramp = np.broadcast_to(shades.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1)), shape)
    seen = prepare_one(loaded, np.ascontiguousarray(ramp))["inputs"].double()
    profile = seen.mean(dim=(0, 2 - axis)).numpy() / 255 * (length - 1)
    # Resizing bends the line at its ends, where it has nothing to interpolate with.
    inner = np.arange(len(profile))[len(profile) // 8 : len(profile) - len(profile) // 8]
    if len(inner) < 2 or length < 2:
        return 0.0, float(length)
    slope, start = np.polyfit(inner, profile[inner], 1)
    # The line goes through the centres of pixels, and half a pixel lies on either side.
    begin, end = start + 0.5 - slope / 2, start + 0.5 + slope * (len(profile) - 0.5)
    # As the image has 256 shades, this is good to some hundredth of a side.
    near = 0.5 + length / 256
    begin = 0.0 if begin < near else float(begin)
    end = float(length if end > length - near else end)
    return begin, max(end, begin + 1)
