"""A heat map over the image it belongs to."""

import numpy as np
from PIL import Image

#: How much of the colours of heat covers the image, where there is none of it and where it is most.
_ALPHA = (0.15, 0.75)


def overlay(
    image: np.ndarray,
    heat: np.ndarray,
    *,
    longest: int | None = None,
    covers: tuple[float, float] | None = None,
) -> np.ndarray:
    """Lays a heat map over an image.

    The image turns grey, so that all colour is heat, from violet to yellow where there is most.

    Args:
        image: (height, width, 3) uint8, RGB.
        heat: (h, w) of any size, from 0 to 1; beyond, it is cut off.
        longest: Longest side of the picture in pixels; default: that of the image.
        covers: Rows and columns of ``heat`` that lie over the image; default: all. The last token
            of a map may lie half beside it.

    Returns:
        (height, width, 3) uint8, RGB.
    """
    from matplotlib import colormaps

    canvas = enlarged(image, longest or max(image.shape[:2]))
    heat = np.clip(stretched(np.clip(heat, 0, 1), canvas.shape[:2], covers), 0, 1)[..., None]
    grey = np.asarray(Image.fromarray(canvas).convert("L"))[..., None]
    colours = 255 * colormaps["inferno"](heat[..., 0])[..., :3]
    alpha = _ALPHA[0] + (_ALPHA[1] - _ALPHA[0]) * heat
    return np.rint((1 - alpha) * grey + alpha * colours).astype(np.uint8)


def enlarged(image: np.ndarray, longest: int) -> np.ndarray:
    """The image with its longer side ``longest`` pixels long."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale == 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    kernel = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize(size, kernel))


def stretched(
    values: np.ndarray, size: tuple[int, int], covers: tuple[float, float] | None = None
) -> np.ndarray:
    """A map (h, w), or its first ``covers`` rows and columns, resized to (height, width)."""
    rows, columns = covers or values.shape
    flat = Image.fromarray(values.astype(np.float32))
    box = (0, 0, min(columns, values.shape[1]), min(rows, values.shape[0]))
    return np.asarray(flat.resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def spread(values: np.ndarray, *, least: float | None = None) -> np.ndarray:
    """Stretches values to reach from 0 to 1.

    The least and the greatest hundredth are taken for outliers, as single tokens may have many
    times what the others have; ``least`` is taken as it is. Equal values become 0.
    """
    low = float(np.percentile(values, 1)) if least is None else least
    high = float(np.percentile(values, 99))
    if high <= low:
        low, high = (float(values.min()) if least is None else least), float(values.max())
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
