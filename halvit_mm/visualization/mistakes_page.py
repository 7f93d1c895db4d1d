"""One page on what a classifier confuses: matrix, pairs of classes, and the worst mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ..errors import UserError
from .colours import Colour
from .mistakes import Classified, Confused, most_confused, read_classified, shares
from .text import sans, shorten_end, shorten_start

if TYPE_CHECKING:
    from mmengine import Config
    from mmengine.dataset import BaseDataset

WIDTH = 1500
_MARGIN, _GAP = 40, 16
_COLUMNS = 6  # of mistakes
_TILE = (WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) // _COLUMNS

_MATRIX = 700  # largest side
_NAMED = 40  # so many classes have room for their names beside the matrix
_NUMBERED = 20  # so many classes have room for numbers in its cells
_NAME_WIDTH = 150
_NOTE_WIDTH = 480  # of the line above the matrix
_PAIRS = 12
_TICKS = (0.0, 0.05, 0.2, 0.5, 1.0)  # of the colour scale

_INK: Colour = (40, 40, 40)
_FAINT: Colour = (120, 120, 120)
_RULE: Colour = (200, 200, 200)
_WRONG: Colour = (190, 70, 0)  # vermilion and green of colours.py, darker for text on white
_TRUE: Colour = (0, 125, 90)
_BAR: Colour = (213, 94, 0)


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image in a wrong class."""

    image: Image.Image
    source: str
    truth: str
    guess: str
    confidence: float


def draw_mistakes(
    cfg: "Config", samples: Sequence[dict[str, Any]], predictions: str | Path, *, num: int
) -> Image.Image:
    """Draws what a classifier confuses in the test set of its config.

    Args:
        cfg: Config whose ``test_dataloader`` was tested.
        samples: The predictions.
        predictions: Where they come from, for messages.
        num: Number of mistakes whose images are shown.

    Raises:
        UserError: The data set cannot be read, or the predictions are not of it.
    """
    dataset = _build_dataset(cfg)
    cure = "give the predictions of this config's test set, or the config that was tested"
    if len(samples) != len(dataset):
        raise UserError(
            f"{predictions}: predictions of another data set, it has {len(samples)} images and the "
            f"test set {len(dataset)}; {cure}"
        )
    classes = dataset.metainfo.get("classes")
    if classes is None:
        raise UserError(
            f"{cfg.filename}: the test set does not name its classes; set "
            "test_dataloader.dataset.metainfo.classes"
        )
    classified = read_classified(samples, predictions, num_classes=len(classes))
    for i, label in enumerate(classified.truth.tolist()):
        if (there := _label(dataset, i)) != label:
            raise UserError(
                f"{predictions}: predictions of another data set, image {i} is of class {label} in "
                f"it and of class {there} in the test set; {cure}"
            )
    # ImageNet's names are lists of synonyms.
    names = [name.split(",")[0] for name in classes]
    mistakes = [_mistake(dataset, classified, int(i), names) for i in classified.worst(num)]
    return compose(classified, names, mistakes)


def compose(
    classified: Classified, names: Sequence[str], mistakes: Sequence[Mistake]
) -> Image.Image:
    """Sets the page, :data:`WIDTH` pixels wide."""
    confusion = classified.confusion()
    matrix = _draw_matrix(confusion, names)
    left = 2 * _MARGIN + max(matrix.width, _NOTE_WIDTH)
    pairs = _draw_pairs(most_confused(confusion, _PAIRS), names, WIDTH - _MARGIN - left)
    tiles = _draw_tiles(mistakes)

    title, below = 90, 60
    top = title + below
    middle = top + max(matrix.height, pairs.height) + _MARGIN
    page = Image.new("RGB", (WIDTH, middle + below + tiles.height + _MARGIN), "white")
    draw = ImageDraw.Draw(page)
    right, total = int(classified.right.sum()), len(classified.truth)
    draw.text(
        (_MARGIN, title / 2 + 6),
        f"Top-1 accuracy {right / total:.1%}: {right:,} of {total:,} images in their class",
        _INK,
        sans(28, bold=True),
        anchor="lm",
    )
    _head(
        draw,
        (_MARGIN, title),
        "Confusion matrix",
        "row: true class, column: predicted class; in percent of the row",
    )
    _head(draw, (left, title), "Most often confused", "true class → predicted class")
    note = f"wrong with the highest confidence; {total - right:,} images are wrong"
    _head(draw, (_MARGIN, middle), "Worst mistakes", note)
    page.paste(matrix, (_MARGIN, top))
    page.paste(pairs, (left, top))
    page.paste(tiles, (_MARGIN, middle + below))
    return page


def _head(draw: ImageDraw.ImageDraw, corner: tuple[int, int], head: str, note: str) -> None:
    x, y = corner
    draw.text((x, y + 12), head, _INK, sans(20, bold=True), anchor="lm")
    draw.text((x, y + 38), note, _FAINT, sans(15), anchor="lm")


def _draw_matrix(confusion: np.ndarray, names: Sequence[str]) -> Image.Image:
    """The matrix with names or numbers of classes around it, and its scale of colours."""
    part = shares(confusion)
    pooled = -(-len(part) // (_MATRIX // 2))  # classes a cell, which is at least 2 pixels wide
    cells = _pool(part, pooled)
    side = min(_MATRIX // len(cells), _MATRIX // 4)
    named = len(names) <= _NAMED
    font = sans(min(15, max(11, side - 4))) if named else sans(13)
    labels = [shorten_end(name, _NAME_WIDTH, font) for name in names] if named else []
    widest = round(max(map(font.getlength, labels), default=40))
    upright = named and widest > side - 8  # names of columns that are too wide for them
    size = side * len(cells)

    left, top = widest + 12, 8
    canvas = Image.new("RGB", (left + size + 90, top + size + (left if upright else 44)), "white")
    draw = ImageDraw.Draw(canvas)
    heat = Image.fromarray(_heat(cells)).resize((size, size), Image.Resampling.NEAREST)
    canvas.paste(heat, (left, top))
    bottom = top + size + 8  # of the matrix, with some space
    draw.rectangle((left - 1, top - 1, left + size, top + size), outline=_RULE)
    if named:
        ticks, colour = dict(enumerate(labels)), _INK
    else:
        ticks, colour = {number: str(number) for number in _round_numbers(len(names))}, _FAINT
    for number, label in ticks.items():
        centre = round((number + 0.5) * side / pooled)
        draw.text((left - 8, top + centre), label, colour, font, anchor="rm")
        if upright:
            _draw_upright(canvas, label, font, (left + centre, bottom))
        else:
            draw.text((left + centre, bottom), label, colour, font, anchor="mt")
    if len(names) <= _NUMBERED:
        _write_percentages(draw, part, side, (left, top))
    _draw_scale(canvas, (left + size + 20, top), size)
    if pooled > 1:
        note = f"each point is the highest of {pooled} × {pooled} cells"
        draw.text((left, canvas.height), note, _FAINT, font, anchor="lb")
    return canvas


def _pool(part: np.ndarray, factor: int) -> np.ndarray:
    """The highest of each ``factor`` × ``factor`` cells, so that single strong ones still show."""
    short = -len(part) % factor
    padded = np.pad(part, (0, short))
    blocks = padded.reshape(len(padded) // factor, factor, -1, factor)
    return blocks.max(axis=(1, 3))


def _heat(values: np.ndarray) -> np.ndarray:
    """Colours (…, 3), uint8, of values from 0 (white) to 1; the root keeps small ones apart."""
    from matplotlib import colormaps

    colours = colormaps["Blues"](0.95 * np.sqrt(values), bytes=True)[..., :3]
    return np.where(values[..., None] > 0, colours, np.uint8(255))


def _round_numbers(count: int) -> range:
    """Up to 11 numbers of classes at equal steps."""
    step = next(s for s in (10, 20, 50, 100, 200, 500, 10**9) if s * 11 >= count)
    return range(0, count, step)


def _write_percentages(
    draw: ImageDraw.ImageDraw, part: np.ndarray, side: int, corner: tuple[int, int]
) -> None:
    font = sans(min(26, max(11, side // 3)))
    for (row, column), value in np.ndenumerate(part):
        if value:
            text = f"{100 * value:.0f}" if value >= 0.005 else "·"
            centre = (corner[0] + (column + 0.5) * side, corner[1] + (row + 0.5) * side)
            draw.text(centre, text, "white" if value > 0.35 else _INK, font, anchor="mm")


def _draw_upright(canvas: Image.Image, text: str, font: Any, top_centre: tuple[int, int]) -> None:
    """Writes a name that ends at ``top_centre`` and is read from below."""
    width, height = round(font.getlength(text)) + 2, font.size + 6
    strip = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(strip).text((width, height / 2), text, _INK, font, anchor="rm")
    x, y = top_centre
    canvas.paste(strip.transpose(Image.Transpose.ROTATE_90), (x - height // 2, y))


def _draw_scale(canvas: Image.Image, corner: tuple[int, int], height: int) -> None:
    draw = ImageDraw.Draw(canvas)
    x, y = corner
    roots = np.linspace(1, 0, height)  # `_heat` takes the root of a value
    strip = Image.fromarray(_heat(np.repeat(roots[:, None] ** 2, 14, axis=1)))
    canvas.paste(strip, (x, y))
    for value in _TICKS:
        place = y + min(max((1 - value**0.5) * height, 8), height - 8)
        draw.text((x + 20, place), f"{value:.0%}", _FAINT, sans(13), anchor="lm")


def _draw_pairs(pairs: Sequence[Confused], names: Sequence[str], width: int) -> Image.Image:
    """A line and a bar for each pair."""
    line = 56
    canvas = Image.new("RGB", (width, max(1, len(pairs)) * line), "white")
    draw = ImageDraw.Draw(canvas)
    font = sans(16)
    if not pairs:
        draw.text((0, 10), "No class is taken for another one.", _INK, font, anchor="lm")
    for i, pair in enumerate(pairs):
        y = i * line
        number = f"{pair.count:,} ({pair.share:.0%})"
        room = width - font.getlength(number) - font.getlength(" →  ") - 12
        texts = _fit_both(names[pair.truth], names[pair.guess], room, font)
        x = 0.0
        for text, colour in zip(texts, (_TRUE, _FAINT, _WRONG), strict=True):
            draw.text((x, y + 12), text, colour, font, anchor="lm")
            x += font.getlength(text)
        draw.text((width, y + 12), number, _INK, font, anchor="rm")
        draw.rectangle((0, y + 28, width - 1, y + 35), fill=(240, 240, 240))
        draw.rectangle((0, y + 28, width * pair.count / pairs[0].count - 1, y + 35), fill=_BAR)
    return canvas


def _fit_both(truth: str, guess: str, room: float, font: Any) -> tuple[str, str, str]:
    """Both names and an arrow between them; the longer name gives way first."""
    shorter = min(font.getlength(truth), font.getlength(guess), room / 2)
    truth = shorten_end(truth, room - shorter, font)
    guess = shorten_end(guess, room - font.getlength(truth), font)
    return truth, " → ", guess


def _draw_tiles(mistakes: Sequence[Mistake]) -> Image.Image:
    """The images in rows, each with what it is taken for, what it is, and where it comes from."""
    height = _TILE + 82
    rows = -(-len(mistakes) // _COLUMNS) or 1
    canvas = Image.new("RGB", (WIDTH - 2 * _MARGIN, rows * height if mistakes else 30), "white")
    draw = ImageDraw.Draw(canvas)
    if not mistakes:
        text = "There are none: every image is in its class."
        draw.text((0, 10), text, _INK, sans(16), anchor="lm")
    for i, mistake in enumerate(mistakes):
        x, y = i % _COLUMNS * (_TILE + _GAP), i // _COLUMNS * height
        image = _enlarge(mistake.image)
        canvas.paste(image, (x + (_TILE - image.width) // 2, y + (_TILE - image.height) // 2))
        percent = f" {mistake.confidence:.1%}"
        bold, plain, small = sans(16, bold=True), sans(15), sans(12)
        guess = shorten_end(mistake.guess, _TILE - bold.getlength(percent), bold)
        truth = shorten_end(f"is {mistake.truth}", _TILE, plain)
        draw.text((x, y + _TILE + 16), guess + percent, _WRONG, bold, anchor="lm")
        draw.text((x, y + _TILE + 38), truth, _TRUE, plain, anchor="lm")
        source = shorten_start(mistake.source, _TILE, small)
        draw.text((x, y + _TILE + 57), source, _FAINT, small, anchor="lm")
    return canvas


def _enlarge(image: Image.Image) -> Image.Image:
    """The image as large as a tile allows."""
    scale = _TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    kernel = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    return image.resize(size, kernel)


def _mistake(
    dataset: "BaseDataset", classified: Classified, number: int, names: Sequence[str]
) -> Mistake:
    info = dataset.get_data_info(number)
    path = info.get("img_path")
    return Mistake(
        image=_image(dataset, info),
        source="/".join(Path(path).parts[-2:]) if path else f"image {number}",
        truth=names[classified.truth[number]],
        guess=names[classified.guess[number]],
        confidence=float(classified.confidence[number]),
    )


def _label(dataset: "BaseDataset", number: int) -> int:
    """The class of an image, which is not decoded where the data set can do without."""
    if hasattr(dataset, "get_cat_ids"):
        return int(dataset.get_cat_ids(number)[0])
    return int(dataset.get_data_info(number)["gt_label"])  # wrappers, such as one that repeats


def _image(dataset: "BaseDataset", info: dict[str, Any]) -> Image.Image:
    """An image of a data set that holds images or paths of images.

    Raises:
        UserError: The image is missing or damaged.
    """
    if "img" in info:
        from mmpretrain.datasets import CIFAR10

        pixels = info["img"]  # grey, or blue first as mmcv loads; but mmpretrain's CIFAR red first
        if pixels.ndim == 3 and not isinstance(dataset, CIFAR10):
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        return Image.fromarray(pixels).convert("RGB")
    try:
        with Image.open(info["img_path"]) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{info['img_path']}: the image is missing or damaged ({error}); copy it again"
        ) from error


def _build_dataset(cfg: "Config") -> "BaseDataset":
    """The test set.

    Raises:
        UserError: The config has none, or it cannot be read.
    """
    from mmengine.registry import DATASETS, DefaultScope

    from ..datasets.check import check_dataset
    from ..engine.config_errors import config_errors

    if not (loader := cfg.get("test_dataloader")):
        raise UserError(f"{cfg.filename}: there is no test_dataloader; give the tested config")
    check_dataset(loader.dataset, option="test_dataloader.dataset")
    scope = DefaultScope.overwrite_default_scope(cfg.get("default_scope", "mmpretrain"))
    with scope, config_errors(cfg):
        return DATASETS.build(loader.dataset)
