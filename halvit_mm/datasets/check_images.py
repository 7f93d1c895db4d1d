"""Finds images that are missing or cut off without decoding the sound ones."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

_THREADS = 16  # the work is waiting for the disk
_TAIL = 64  # bytes at the end in which the closing mark must lie; some cameras pad their files
_MARKS = {  # how a file begins: how it then must end
    b"\xff\xd8\xff": b"\xff\xd9",
    b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82",
}


@dataclass
class BadImages:
    """What is wrong with a list of files."""

    missing: list[Path] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)  # why it cannot be read


def find_bad_images(paths: Sequence[Path]) -> BadImages:
    """Looks at the beginning and the end of every file; decodes only those that look odd."""
    bad = BadImages()
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, fault in zip(paths, pool.map(_fault, paths), strict=True):
            if fault == "missing":
                bad.missing.append(path)
            elif fault is not None:
                bad.broken[path] = fault
    return bad


def _fault(path: Path) -> str | None:
    """Why an image cannot be read; None for a sound one."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            tail = file.read()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror
    if not head:
        return "empty file"
    closing = next((end for start, end in _MARKS.items() if head.startswith(start)), None)
    if closing is not None and closing in tail:
        return None
    try:
        with Image.open(path) as image:
            image.verify() if closing is None else image.load()
    except Exception as error:  # Pillow lets through whatever its decoders stumble over
        return str(error)
    return None
