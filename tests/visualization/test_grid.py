"""What is drawn on an image, pixel by pixel, and how images are laid out."""

import numpy as np
import pytest
from PIL import Image

from halvit_mm.visualization.colours import class_colour, line_colour
from halvit_mm.visualization.grid import TILE, Instance, Pair, compose, draw_instances

GREY = 100


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (GREY, GREY, GREY))


def pixel(picture: Image.Image, x: int, y: int) -> np.ndarray:
    return np.array(picture.getpixel((x, y)), dtype=int)


@pytest.mark.parametrize(
    ("size", "tile"), [((128, 128), (400, 400)), ((800, 600), (400, 300)), ((32, 64), (200, 400))]
)
def test_images_of_any_size_become_tiles(size, tile):
    assert draw_instances(grey(*size), []).size == tile


def test_nothing_to_draw_leaves_the_image_as_it_is():
    assert draw_instances(grey(64, 64), []).getcolors() == [(TILE * TILE, (GREY,) * 3)]


@pytest.mark.parametrize("label", [0, 1, 79, 999])
def test_masks_let_the_image_shine_through_and_have_a_solid_rim(label):
    mask = np.zeros((100, 100), np.uint8)
    mask[20:60, 30:80] = 1
    picture = draw_instances(
        grey(100, 100), [Instance(label=label, name="", box=(10, 10, 90, 90), mask=mask)]
    )
    inside, outside = pixel(picture, 220, 160), pixel(picture, 60, 60)
    assert (outside == GREY).all()
    assert np.abs(inside - (0.55 * GREY + 0.45 * np.array(class_colour(label)))).max() <= 2
    # The rim of the mask, far from the box.
    towards = np.linalg.norm(
        np.array(picture, dtype=int)[160, 110:130] - class_colour(label), axis=1
    )
    assert towards.min() < np.linalg.norm(inside - class_colour(label)) / 2


@pytest.mark.parametrize("side", [TILE, 900])
def test_masks_end_where_their_objects_end(side):
    mask = np.zeros((100, 100), bool)
    mask[20:60, 37:81] = True
    instance = Instance(label=0, name="", box=(0, 0, 1, 1), mask=mask)
    drawn = (np.array(draw_instances(grey(100, 100), [instance], side=side)) != GREY).any(axis=2)
    across, down = drawn[side * 4 // 10], drawn[:, side // 2]
    scale = side / 100
    for line, bounds in ((across, (37, 81)), (down, (20, 60))):
        inside = np.flatnonzero(line)
        assert np.abs(inside[[0, -1]] + (0, 1) - scale * np.array(bounds)).max() <= 1
        assert line[inside[0] : inside[-1]].all()


def test_boxes_are_outlines_at_their_place():
    picture = draw_instances(grey(100, 100), [Instance(label=2, name="", box=(20, 30, 70, 80))])
    for x, y in ((80, 200), (280, 200), (180, 120), (180, 320)):
        assert (pixel(picture, x, y) == class_colour(2)).all()
    for x, y in ((180, 220), (60, 200), (300, 200), (180, 100), (180, 340)):
        assert (pixel(picture, x, y) == GREY).all()


def test_boxes_outside_the_image_and_turned_ones_are_drawn_at_the_edge():
    picture = draw_instances(grey(100, 100), [Instance(label=0, name="", box=(120, 50, -5, 10))])
    assert (pixel(picture, TILE - 1, 120) == class_colour(0)).all()
    assert (pixel(picture, 0, 120) == class_colour(0)).all()


def test_small_objects_come_on_top_of_large_ones():
    whole, part = np.ones((50, 50), np.uint8), np.zeros((50, 50), np.uint8)
    part[20:30, 20:30] = 1
    large = Instance(label=0, name="", box=(0, 0, 50, 50), mask=whole)
    small = Instance(label=1, name="", box=(20, 20, 30, 30), mask=part)
    one, other = (draw_instances(grey(50, 50), order) for order in ([large, small], [small, large]))
    assert one.tobytes() == other.tobytes()
    middle = pixel(one, 200, 200)
    below = 0.55 * GREY + 0.45 * np.array(class_colour(0))
    assert np.abs(middle - (0.55 * below + 0.45 * np.array(class_colour(1)))).max() <= 3


def test_a_label_tells_name_and_score():
    def label(name: str, score: float | None) -> bytes:
        box = (20, 30, 70, 80)
        return draw_instances(
            grey(100, 100), [Instance(label=0, name=name, box=box, score=score)]
        ).tobytes()

    texts = [label("", None), label("cat", None), label("cat", 0.5), label("cat", 0.51)]
    texts += [label("dog", 0.5), label("", 0.5)]
    assert len(set(texts)) == len(texts)
    assert label("cat", 0.501) == label("cat", 0.499)  # two digits


def test_a_label_without_room_is_left_out_rather_than_drawn_over_another():
    # The tile is 400 × 40 pixels: only the spot inside the box at its top is high enough.
    box = (0, 0, 40, 4)
    sure = Instance(label=0, name="sure", box=box, score=0.9)
    unsure = Instance(label=0, name="unsure", box=box, score=0.6)
    both = draw_instances(grey(40, 4), [unsure, sure])
    assert both.tobytes() == draw_instances(grey(40, 4), [sure]).tobytes()
    assert both.tobytes() != draw_instances(grey(40, 4), [unsure]).tobytes()


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 1), (4, 1), (8, 2), (18, 3), (20, 3)])
def test_pairs_make_a_grid_about_as_high_as_wide(count, columns):
    colours = [(i, 255 - i, 7) for i in range(count)]
    pairs = [
        Pair(
            left=Image.new("RGB", (TILE, TILE), colour),
            right=Image.new("RGB", (TILE, 300), colour),
            left_caption="a name" * 50,
            right_caption="",
        )
        for colour in colours
    ]
    grid = compose(pairs, titles=("left", "right"))
    assert columns == grid.width // (2 * TILE)
    rows = -(-count // columns)
    assert grid.height > rows * TILE
    seen = {colour: number for number, colour in grid.getcolors(1 << 16)}
    # Nothing, such as the long caption, covers an image.
    assert all(seen[colour] == TILE * (TILE + 300) for colour in colours)


def test_colours_differ():
    assert len({class_colour(i) for i in range(200)}) == 200
    assert len({line_colour(i) for i in range(20)}) == 20
    for i in range(200):
        assert all(0 <= channel <= 255 for channel in class_colour(i))
