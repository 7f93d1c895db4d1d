"""Pictures that come to the page: from its visitors, or from the folder of examples."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..inference.images import read_image

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_MOST_EXAMPLES = 24
_THUMBNAIL_SIDE = 160  # pixels


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What visitors may send, and what is kept of it.

    Attributes:
        megabytes: Size of a file.
        side: Longest side in pixels that models and browsers get; what is larger is scaled down.
        keep_minutes: Age from which on pictures are deleted.
        keep_megabytes: Size of all pictures; where it is more, the oldest go before their time.
    """

    megabytes: float = 20
    side: int = 1600
    keep_minutes: float = 60
    keep_megabytes: float = 1024


def open_picture(file: Path, *, name: str, limits: Limits) -> np.ndarray:
    """Reads a picture, judged by its content, and scales it down to the largest side allowed.

    Args:
        file: The file.
        name: What messages call it: the name that it has on its owner's machine.
        limits: What is allowed.

    Returns:
        (height, width, 3) uint8 in RGB.

    Raises:
        UserError: It cannot be read as an image, or is larger than allowed.
    """
    if file.is_file() and file.stat().st_size > limits.megabytes * 2**20:
        raise UserError(
            f"{name}: the file is larger than {limits.megabytes:g} MB; send a smaller one"
        )
    return scaled_down(read_image(file, name=name), limits.side)


def scaled_down(image: np.ndarray, side: int) -> np.ndarray:
    """The (height, width, 3) uint8 image with no side above ``side``, in the same proportions."""
    if max(image.shape[:2]) <= side:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


@dataclass(frozen=True, eq=False)
class Example:
    """A picture to pick: its file, and a small (height, width, 3) uint8 copy in RGB."""

    file: Path
    thumbnail: np.ndarray


def find_examples(folder: Path, *, limits: Limits) -> tuple[list[Example], list[str]]:
    """The first pictures in a folder, by name, and one sentence for each that cannot be shown.

    Raises:
        UserError: There is no such folder, or no picture in it that can be read.
    """
    if not folder.is_dir():
        raise UserError(f"--examples {folder}: there is no such folder")
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in _SUFFIXES
    )
    examples, faults = [], []
    for file in files[:_MOST_EXAMPLES]:
        try:
            image = open_picture(file, name=str(file), limits=limits)
        except UserError as error:
            faults.append(str(error))
        else:
            examples.append(Example(file, scaled_down(image, _THUMBNAIL_SIDE)))
    if not examples:
        raise UserError(
            f"--examples {folder}: there is no picture that can be read; name a folder of "
            f"{', '.join(sorted(_SUFFIXES))} files"
        )
    return examples, faults
