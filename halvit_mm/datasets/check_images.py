"""Finds images that are missing or cut off without decoding the sound ones."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..errors import UserError

_THREADS = 16  # the work is waiting for the disk
_TAIL = 64  # bytes at the end in which the closing mark must lie; some cameras pad their files
_MARKS = {  # how a file begins: how it then must end
    b"\xff\xd8\xff": b"\xff\xd9",
    b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82",
}
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


def find_fault(image: BinaryIO | bytes) -> str | None:
    """Why an encoded image cannot be read; None for a sound one."""
    file = BytesIO(image) if isinstance(image, bytes) else image
    head = file.read(16)
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    if not head:
        return "empty file"
    closing = next((end for start, end in _MARKS.items() if head.startswith(start)), None)
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


def _listed(files: Mapping[Path, str]) -> str:
    lines = [f"\n  {path}{remark}" for path, remark in list(files.items())[:_LISTED]]
    return "".join(lines) + ("\n  …" if len(files) > _LISTED else "")
