"""Folders of images, one a class."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .check_paths import read_text

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
#: File beside the splits with a line for each class: its folder, a tab, the name that people read.
#: Tiny ImageNet brings it.
WORDS = "words.txt"


def list_classes(folder: Path) -> list[str]:
    """The names of the folders in ``folder``, without hidden ones, in alphabetical order."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def list_images(folder: Path, extensions: tuple[str, ...] = EXTENSIONS) -> list[str]:
    """The paths of the images at any depth of ``folder``, without hidden ones, sorted."""
    return sorted(
        os.path.join(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(extensions) and not name.startswith(".")
    )


def read_words(root: Path, classes: Sequence[str]) -> list[str]:
    """The names that people read for ``classes``, where ``root`` has them; else the classes."""
    if not (root / WORDS).is_file():
        return list(classes)
    lines = read_text(root / WORDS).splitlines()
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return [words.get(name, name) for name in classes]


def check_other_names(given: Sequence[str], classes: Sequence[str], source: Path) -> None:
    """Whether ``given`` can be other names of the classes of ``source``, in their order.

    Raises:
        UserError: They are fewer or more, or the classes themselves in another order.
    """
    if isinstance(given, str):
        raise UserError(
            f"metainfo.classes is the string {given!r}: write a tuple, with a comma also after a "
            f"single class: ({given!r},)"
        )
    if len(given) != len(classes):
        raise UserError(
            f"{source} has {len(classes)} classes, but {len(given)} names are given: give one for "
            "each class, or correct the path"
        )
    if list(given) != list(classes) and set(given) == set(classes):
        raise UserError(
            f"the names given are the classes of {source} in another order, which would exchange "
            f"them: give them in the order {', '.join(map(repr, classes[:5]))}"
            f"{', …' if len(classes) > 5 else ''}"
        )
