"""Finds images that are missing or cut off without decoding the sound ones."""

import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..errors import UserError

_THREADS = 16  # the work is waiting for the disk
_TAIL = 64  # bytes at the end in which the closing mark must lie; some cameras pad their files
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST = 2**30  # pixels that OpenCV decodes
_MARKS = {  # how a file begins: how it then must end
    b"\xff\xd8\xff": b"\xff\xd9",
    _PNG: b"IEND\xaeB`\x82",
}
_ORIENTATION = 0x0112  # EXIF; from 5 on the sides are exchanged
#: Goes through a list and shows how far it is.
Progress = Callable[[list], Iterable]
_LISTED = 5  # files that a message names one by one


@dataclass
class BadImages:
    """What is wrong with a list of files."""

    missing: list[Path] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)  # why it cannot be read


def find_bad_images(paths: Sequence[Path]) -> BadImages:
    """Looks at the beginning and the end of every file; decodes only those that look odd."""
    bad = BadImages()
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, fault in zip(paths, pool.map(_file_fault, paths), strict=True):
            if fault == "missing":
                bad.missing.append(path)
            elif fault is not None:
                bad.broken[path] = fault
    return bad


def refuse_bad_images(paths: Sequence[Path], *, which: str, option: str) -> None:
    """Refuses a set of which images are missing or cannot be read.

    Args:
        paths: The images.
        which: Which images they are, e.g. ``"that list.txt names"``.
        option: Path of the data set in the config.

    Raises:
        UserError: An image is missing or cannot be read.
    """
    bad = find_bad_images(paths)
    if bad.missing:
        raise UserError(
            f"{len(bad.missing)} of the {len(paths)} images {which} are missing, first "
            f"{bad.missing[0]}: put them there, correct {option}.data_prefix, or remove them from "
            "the file" + _listed(dict.fromkeys(bad.missing[1:], ""))
        )
    if bad.broken:
        raise UserError(
            f"{len(bad.broken)} of the {len(paths)} images {which} cannot be read, perhaps they "
            "were cut off: fetch them anew or take them out of the set"
            + _listed({path: f": {reason}" for path, reason in bad.broken.items()})
        )


def find_other_sizes(
    paths: Mapping[int, Path], sizes: Mapping[int, tuple[int, int]]
) -> dict[int, tuple[int, int] | None]:
    """Width and height, as they are loaded, of the images that have other ones than expected.

    None where the header says none, or more than is sane.

    Args:
        paths: The images, by whatever number.
        sizes: Expected width and height, by the same numbers.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = zip(paths, pool.map(_loaded_size, paths.values()), strict=True)
        return {i: size for i, size in found if size != sizes[i]}


def find_undecodable(paths: Sequence[Path], progress: Progress) -> dict[Path, str]:
    """Decodes every image as mmcv does, and says why those that cannot be decoded are broken."""
    import cv2

    broken = {}
    for path in progress(list(paths)):
        try:
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        except (OSError, cv2.error) as error:
            image, reason = None, getattr(error, "strerror", None) or "OpenCV cannot decode it"
        else:
            reason = "OpenCV cannot decode it"
        if image is None:
            broken[path] = reason
    return broken


def find_fault(image: BinaryIO | bytes) -> str | None:
    """Why an encoded image cannot be read; None for a sound one."""
    file = BytesIO(image) if isinstance(image, bytes) else image
    head = file.read(24)
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    if not head:
        return "empty file"
    closing = next((end for start, end in _MARKS.items() if head.startswith(start)), None)
    if head.startswith(_PNG) and len(head) == 24:
        width, height = struct.unpack(">II", head[16:])
        if not 0 < width * height <= _LARGEST:
            return f"it claims to have {width} × {height} pixels"
    if closing is not None and closing in tail:
        return None
    file.seek(0)
    try:
        with Image.open(file) as picture:
            picture.verify() if closing is None else picture.load()
    except Exception as error:  # Pillow lets through whatever its decoders stumble over
        return str(error).split(" <_io.")[0]
    return None


def _file_fault(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return find_fault(file)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror
    except ValueError as error:  # a name that no file can have
        return str(error)


def _loaded_size(path: Path) -> tuple[int, int] | None:
    """Width and height, from the header; None where it is not understood.

    mmcv turns photographs upright as their EXIF data say.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            turned = "exif" in picture.info and picture.getexif().get(_ORIENTATION, 1) >= 5
            return picture.size[::-1] if turned else picture.size
    except Exception:  # Pillow lets through whatever its decoders stumble over
        return None


def _listed(files: Mapping[Path, str]) -> str:
    lines = [f"\n  {path}{remark}" for path, remark in list(files.items())[:_LISTED]]
    return "".join(lines) + ("\n  …" if len(files) > _LISTED else "")
