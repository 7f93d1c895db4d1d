"""Pictures of what a model found in an image."""

import numpy as np
from PIL import Image, ImageDraw

from ..visualization.grid import Instance, draw_instances
from ..visualization.text import sans, shorten_end
from .results import Classification, Detections, Result

#: Longest side of a picture in pixels: small images are enlarged so that labels can be read and
#: hide little, large ones are made smaller, as nobody looks at twelve megapixels at once.
SMALLEST, LARGEST = 640, 1600

_INK, _EMPTY, _BAR = (40, 40, 40), (240, 240, 240), (213, 94, 0)


def draw_detections(image: np.ndarray, detections: Detections) -> np.ndarray:
    """Draws masks, boxes, names of classes and scores.

    The name is left out of a detector's labels that knows one class.

    Args:
        image: (height, width, 3) uint8, RGB, as the detector saw it.
        detections: What it found.

    Returns:
        The picture, uint8 in RGB, in the image's proportions; its longest side is that of the image
        or, at the least and at the most, :data:`SMALLEST` and :data:`LARGEST` pixels.
    """
    single = len(detections.classes) == 1
    instances = [
        Instance(
            label=int(label),
            name="" if single else short_name(detections.classes[label]),
            box=tuple(detections.boxes[i].tolist()),
            score=float(detections.scores[i]),
            mask=None if detections.masks is None else detections.masks[i],
        )
        for i, label in enumerate(detections.labels)
    ]
    return np.asarray(draw_instances(Image.fromarray(image), instances, side=_side(image)))


def draw_classification(
    image: np.ndarray, classification: Classification, k: int = 5
) -> np.ndarray:
    """Draws an image with its likeliest classes below it, a line and a bar for each.

    Args:
        image: (height, width, 3) uint8, RGB.
        classification: What a classifier takes it for.
        k: How many classes.

    Returns:
        The picture, uint8 in RGB, as wide as that of :func:`draw_detections` or, if this is narrow,
        :data:`SMALLEST` pixels.
    """
    scale = _side(image) / max(image.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    kernel = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    resized = Image.fromarray(image).resize(size, kernel)
    width = max(SMALLEST, resized.width)
    unit = round(width**0.5 * 0.65)  # letters of 16 pixels on the narrowest picture
    font = sans(unit)
    top = classification.top(k)
    line = round(2.4 * unit)
    canvas = Image.new("RGB", (width, resized.height + line * len(top) + unit), "white")
    canvas.paste(resized, ((width - resized.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    left, right = unit, width - unit
    for i, (name, score) in enumerate(top):
        y = resized.height + unit + i * line
        percent = f"{score:.1%}"
        room = right - left - font.getlength(percent) - unit
        draw.text((left, y + unit / 2), shorten_end(short_name(name), room, font), _INK, font, "lm")
        draw.text((right, y + unit / 2), percent, _INK, font, "rm")
        bar = (y + round(1.25 * unit), y + round(1.7 * unit))
        draw.rectangle((left, bar[0], right, bar[1]), fill=_EMPTY)
        if score > 0:
            end = left + max(1, round((right - left) * min(score, 1.0)))
            draw.rectangle((left, bar[0], end, bar[1]), fill=_BAR)
    return np.asarray(canvas)


def draw(image: np.ndarray, result: Result, *, k: int = 5) -> np.ndarray:
    """Draws whatever a model said about an image; see the functions above."""
    if isinstance(result, Detections):
        return draw_detections(image, result)
    return draw_classification(image, result, k)


def short_name(name: str) -> str:
    """The first of the synonyms that ImageNet's names list."""
    return name.split(",")[0]


def _side(image: np.ndarray) -> int:
    return min(max(max(image.shape[:2]), SMALLEST), LARGEST)
