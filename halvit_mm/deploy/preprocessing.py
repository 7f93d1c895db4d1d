"""What happens to an image before it goes into a graph: resizing and cropping, without OpenMMLab.

Scaling of values and padding are in the graph itself. The steps are taken from a test pipeline when
a model is exported, stored in the file as JSON, and done with OpenCV or Pillow as the pipeline's
own, so that pixels are the same.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from ..errors import UserError

#: Height and width.
Size = tuple[int, int]


class Step(Protocol):
    """One thing that is done to an image (height, width, 3) uint8."""

    kind: ClassVar[str]

    def __call__(self, image: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Resizes to a size, or into it.

    Attributes:
        scale: Width and height in pixels; or with ``keep_ratio`` the lengths that the long and the
            short side must not exceed, in any order.
        keep_ratio: Keeps the image's proportions.
        edge: ``"short"``, ``"long"``, ``"width"`` or ``"height"`` is resized to ``scale[0]``, and
            the other side with it; None: as above.
        backend: ``"cv2"`` or ``"pillow"``.
        interpolation: As mmcv names them.
    """

    kind: ClassVar[str] = "resize"
    scale: tuple[int, int]
    keep_ratio: bool = False
    edge: str | None = None
    backend: str = "cv2"
    interpolation: str = "bilinear"

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        return _resize(image, self._target(width, height), self.backend, self.interpolation)

    def _target(self, width: int, height: int) -> tuple[int, int]:
        """The new width and height, rounded as mmcv and mmpretrain do."""
        if self.edge is not None:
            side = self.scale[0]
            of_width = self.edge == "width" or (
                width < height if self.edge == "short" else self.edge == "long" and width > height
            )
            if of_width:
                return side, int(side * height / width)
            return int(side * width / height), side
        if self.keep_ratio:
            ratio = min(
                max(self.scale) / max(width, height),
                min(self.scale) / min(width, height),
            )
            return int(width * float(ratio) + 0.5), int(height * float(ratio) + 0.5)
        return self.scale


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """Cuts out the middle; a smaller image stays as it is.

    Attributes:
        size: Height and width in pixels.
    """

    kind: ClassVar[str] = "center_crop"
    size: Size

    def __call__(self, image: np.ndarray) -> np.ndarray:
        sides = [min(*pair) for pair in zip(image.shape, self.size, strict=False)]
        y, x = (round((old - new) / 2) for old, new in zip(image.shape, sides, strict=False))
        return image[y : y + sides[0], x : x + sides[1]]


_STEPS: dict[str, type] = {step.kind: step for step in (Resize, CenterCrop)}
#: Transforms that change nothing that a graph looks at.
_WITHOUT_EFFECT = ("Load", "Pack", "function")


def steps_of(transforms: Sequence[Any]) -> tuple[Step, ...]:
    """The steps of a test pipeline that was built.

    Raises:
        UserError: There is a transform that has no counterpart here.
    """
    return tuple(
        step
        for transform in transforms
        if not type(transform).__name__.startswith(_WITHOUT_EFFECT)
        for step in _translate(transform)
    )


def _translate(transform: Any) -> list[Step]:
    kind = type(transform).__name__
    if kind == "ResizeEdge":
        scale = (int(transform.scale),) * 2
        return [_resize_like(transform, scale=scale, edge=transform.edge)]
    if kind == "Resize":
        if transform.scale is None:
            if transform.scale_factor in (1, (1, 1)):
                return []
        else:
            scale = tuple(int(side) for side in transform.scale)
            return [_resize_like(transform, scale=scale, keep_ratio=transform.keep_ratio)]
    if kind == "CenterCrop" and not transform.auto_pad:
        width, height = transform.crop_size
        return [CenterCrop(size=(height, width))]
    raise UserError(
        f"the test pipeline's {kind} cannot be done without OpenMMLab as it is set; supported are "
        "Resize to a scale, ResizeEdge and CenterCrop"
    )


def _resize_like(transform: Any, **options: Any) -> Resize:
    return Resize(**options, backend=transform.backend, interpolation=transform.interpolation)


def as_data(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps as JSON can hold them."""
    return [{"kind": step.kind} | asdict(step) for step in steps]


def from_data(data: Sequence[dict[str, Any]]) -> tuple[Step, ...]:
    """Inverse of :func:`as_data`.

    Raises:
        KeyError, TypeError: The data are of something else.
    """
    return tuple(
        _STEPS[options["kind"]](
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in options.items()
                if key != "kind"
            }
        )
        for options in data
    )


def apply(steps: Sequence[Step], image: np.ndarray) -> np.ndarray:
    """Image (height, width, 3) uint8 in RGB → (3, H, W) float32 from 0 to 255.

    Raises:
        UserError: A side of the image would become 0 pixels long or far too long.
    """
    original = image.shape[:2]
    # Pixels are resized channel by channel, so that their order does not matter.
    for step in steps:
        image = step(image) if 0 not in image.shape else image
    if 0 in image.shape:
        raise UserError(
            f"an image of {original[0]} × {original[1]} pixels is too narrow for this model: "
            "a side becomes 0 pixels long; cut it into pieces"
        )
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)


def _resize(image: np.ndarray, size: tuple[int, int], backend: str, method: str) -> np.ndarray:
    """Resizes to ``size`` (width, height), as mmcv does."""
    if 0 in size:
        return image[:0]
    if backend == "pillow":
        from PIL import Image

        method = Image.Resampling[method.upper()]
        return np.asarray(Image.fromarray(image).resize(size, method))
    import cv2

    method = {"bicubic": "CUBIC", "bilinear": "LINEAR", "lanczos": "LANCZOS4"}.get(
        method, method.upper()
    )
    try:
        return cv2.resize(image, size, interpolation=getattr(cv2, f"INTER_{method}"))
    except cv2.error:  # sides that no image can have
        return image[:0]
