"""Reading an annotation file strictly: what other programs would read otherwise is noticed."""

import codecs
import json
import locale
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError

#: Memory that reading takes for each byte of a file; files of COCO's kind were measured.
_MEMORY_PER_BYTE = 10
_ENCODINGS = (
    (codecs.BOM_UTF8, "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass(frozen=True)
class Parsed:
    """The content of a JSON file.

    Attributes:
        content: What it says.
        repeated: Keys that an object has twice, with the object as it was read: the last counts.
        constants: How often NaN, Infinity and -Infinity, which are not JSON, stand in it.
    """

    content: Any
    repeated: list[tuple[str, dict]] = field(default_factory=list)
    constants: int = 0


def read_json(file: Path) -> Parsed:
    """Reads a JSON file.

    Raises:
        UserError: It cannot be read, is larger than memory allows, or is not whole JSON in UTF-8.
    """
    _check_memory(file)
    try:
        encoded = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; make it readable") from error
    for mark, name in _ENCODINGS:
        if encoded.startswith(mark):
            raise UserError(f"{file} is written as {name}: save it as plain UTF-8")
    # mmdet opens the file in whatever encoding the machine is set to.
    if not encoded.isascii() and codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
        raise UserError(
            f"{file} has letters beyond ASCII, but this machine is set to "
            f"{locale.getpreferredencoding(False)}: set the environment variable PYTHONUTF8=1"
        )

    repeated: list[tuple[str, dict]] = []
    constants = []

    def read_object(pairs: list[tuple[str, Any]]) -> dict:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.extend((key, entry) for key in entry if keys.count(key) > 1)
        return entry

    def read_constant(name: str) -> float:
        constants.append(name)
        return float(name)

    try:
        content = json.loads(
            encoded.decode("utf-8"), object_pairs_hook=read_object, parse_constant=read_constant
        )
    except RecursionError as error:
        raise UserError(
            f"{file} has lists within lists too deep to read: fetch or make it anew"
        ) from error
    except MemoryError as error:
        raise UserError(f"{file} does not fit into memory: split the data set") from error
    except ValueError as error:
        raise UserError(
            f"{file} is not valid JSON ({error}), perhaps it was cut off: fetch or make it anew"
        ) from error
    return Parsed(content, repeated, len(constants))


def _check_memory(file: Path) -> None:
    needed = file.stat().st_size * _MEMORY_PER_BYTE
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"{file} has {file.stat().st_size / 2**30:.1f} GiB, and reading it takes about "
            f"{needed / 2**30:.0f} GiB of memory, of which there are {memory / 2**30:.0f}: split "
            "the data set"
        )
