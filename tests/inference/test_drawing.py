"""Pictures of results, pixel by pixel."""

import numpy as np
import pytest

from halvit_mm.inference import Classification, Detections, draw_classification, draw_detections
from halvit_mm.inference.drawing import LARGEST, SMALLEST, draw
from halvit_mm.visualization.colours import class_colour

GREY = 100


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def found(size, boxes, *, labels=None, masks=None, classes=("cat", "dog")) -> Detections:
    count = len(boxes)
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(count, 4),
        scores=np.linspace(0.9, 0.5, count).astype(np.float32),
        labels=np.array(labels if labels is not None else [0] * count, np.int64),
        masks=masks,
        size=size,
        classes=classes,
    )


@pytest.mark.parametrize(
    ("size", "picture"),
    [
        ((100, 200), (SMALLEST // 2, SMALLEST)),
        ((800, 1000), (800, 1000)),
        ((4000, 3000), (LARGEST, LARGEST * 3 // 4)),
        ((1, 1), (SMALLEST, SMALLEST)),
        ((20, 20_000), (2, LARGEST)),
    ],
)
def test_pictures_have_the_proportions_of_images_and_a_size_to_look_at(size, picture):
    drawn = draw_detections(grey(*size), found(size, []))
    assert drawn.shape == (*picture, 3)
    assert drawn.dtype == np.uint8
    assert (drawn == GREY).all()


def test_boxes_and_masks_are_drawn_at_their_places():
    masks = np.zeros((1, 1000, 1000), bool)
    masks[0, 400:500, 400:500] = True
    drawn = draw_detections(
        grey(1000, 1000), found((1000, 1000), [(300, 300, 700, 700)], labels=[1], masks=masks)
    )
    colour = np.array(class_colour(1))
    assert (drawn[500, 300] == colour).all()
    assert (drawn[700, 600] == colour).all()
    assert (drawn[600, 600] == GREY).all()
    assert np.abs(drawn[450, 450] - (0.55 * GREY + 0.45 * colour)).max() <= 2


def test_lines_and_letters_grow_with_the_picture():
    def coloured(side):
        drawn = draw_detections(grey(side, side), found((side, side), [(0.4 * side,) * 4]))
        return (drawn != GREY).any(axis=2)

    small, large = coloured(640), coloured(1600)
    heights = [np.flatnonzero(picture.any(axis=1)) for picture in (small, large)]
    assert 1.3 < np.ptp(heights[1]) / np.ptp(heights[0]) < 2


def test_the_only_class_is_not_named():
    box = [(100, 100, 500, 500)]
    one = draw_detections(grey(640, 640), found((640, 640), box, classes=("nucleus",)))
    two = draw_detections(grey(640, 640), found((640, 640), box, classes=("nucleus", "x")))
    label = slice(80, 99)  # above the box
    widths = [np.flatnonzero((p[label] != GREY).any(axis=(0, 2))) for p in (one, two)]
    assert np.ptp(widths[1]) > 1.5 * np.ptp(widths[0]) > 0


def classes(*scores: float) -> Classification:
    names = tuple(f"class {i}, synonym" for i in range(len(scores)))
    return Classification(scores=np.array(scores, np.float32), size=(32, 32), classes=names)


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (20, 20_000), (20_000, 20), (900, 1200)])
def test_bars_are_as_long_as_classes_are_likely(size):
    drawn = draw_classification(grey(*size), classes(0.25, 0.5, 0.125), k=2)
    height, width = drawn.shape[:2]
    assert width >= SMALLEST
    bars = (drawn == (213, 94, 0)).all(axis=2)
    lengths = bars.sum(axis=1)
    longest, shortest = lengths.max(), lengths[lengths > 0].min()
    assert longest / shortest == pytest.approx(2, rel=0.01)
    assert longest == pytest.approx(width / 2, rel=0.1)
    assert height > SMALLEST * size[0] / max(size)


def test_the_image_stands_above_the_bars():
    drawn = draw_classification(grey(64, 64), classes(1.0, 0.0))
    assert (drawn[:SMALLEST] == GREY).all()
    assert not (drawn[SMALLEST:] == GREY).all()


def test_either_kind_is_drawn():
    image = grey(64, 64)
    assert (draw(image, found((64, 64), [])) == GREY).all()
    assert (draw(image, classes(1.0), k=1) == draw_classification(image, classes(1.0), 1)).all()
