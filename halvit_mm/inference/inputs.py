"""What the user means by paths, folders, patterns and lists of these: files, each with a name."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..datasets.image_folders import EXTENSIONS, list_images
from ..errors import UserError

#: What is taken from folders. A file that is named itself may be called anything.
IMAGES = (*EXTENSIONS, ".gif", ".jp2")
#: What is read as a video.
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file to look at.

    Attributes:
        path: Where it is, as the user named it or its folder.
        name: What its results are called: a relative path without a suffix, which no other input
            has. Files of a folder keep their places below the folder's name.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether its name ends as those of videos do."""
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What there is to look at.

    Attributes:
        files: In the order in which they were named; those of folders and patterns sorted.
        missing: What is not there, a line each.
    """

    files: tuple[InputFile, ...]
    missing: tuple[str, ...]


def find_inputs(sources: Sequence[str], *, out: Path, listed: Iterable[str] = ()) -> Inputs:
    """Finds the files that ``sources`` stand for, each once.

    Args:
        sources: Files; folders, which stand for the images at any depth of them; patterns such as
            ``"photos/**/*.jpg"``; or ``"-"``, which stands for ``listed``.
        out: Where results go; what lies there is left out of folders that hold it.
        listed: Lines, each with the path of a file or a folder.

    Raises:
        UserError: There is nothing to look at, in all or in a folder; or a file in ``out`` is
            named.
    """
    found: dict[str, tuple[Path, Path]] = {}  # by absolute path: as named, and the wanted name
    missing = []
    for source in sources:
        for piece in _lines(listed) if source == "-" else [source]:
            if os.path.exists(piece):
                matches = [piece]
            else:
                # A name in a list is a name, even where it has brackets in it.
                matches = [] if source == "-" else sorted(glob.glob(piece, recursive=True))
                if not matches:
                    missing.append(_not_there(piece, pattern=source != "-"))
            for match in matches:
                for path, name in _files(Path(match), out):
                    found.setdefault(os.path.abspath(path), (path, name))
    if not found:
        raise UserError(
            "\n  ".join(["there is no image to look at; name files, folders or patterns", *missing])
        )
    for path, _ in found.values():
        if _is_in(path, out):
            raise UserError(
                f"{path} lies in {out}, where results go; name another folder with --out"
            )
    paths, wanted = zip(*found.values(), strict=True)
    names = _unique([name.with_suffix("").as_posix() for name in wanted])
    return Inputs(
        files=tuple(InputFile(path=p, name=n) for p, n in zip(paths, names, strict=True)),
        missing=tuple(missing),
    )


def _lines(listed: Iterable[str]) -> Iterator[str]:
    for line in listed:
        if piece := line.rstrip("\r\n"):
            yield piece


def _not_there(piece: str, *, pattern: bool) -> str:
    if pattern and glob.has_magic(piece):
        return f"{piece}: nothing matches this pattern"
    return f"{piece}: there is no such file; check the path"


def _files(path: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """A file, or the images of a folder, with the names that they want."""
    if not path.is_dir():
        yield path, Path(path.name)
        return
    skips = not _is_in(path, out)
    images = [Path(image) for image in list_images(path, IMAGES)]
    images = [image for image in images if not (skips and _is_in(image, out))]
    if not images:
        raise UserError(
            f"{path}: there is no image ({', '.join(IMAGES)}) in this folder; name one with images"
        )
    for image in images:
        yield image, Path(path.resolve().name) / image.relative_to(path)


def _is_in(path: Path, folder: Path) -> bool:
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return folder == path or folder in path.parents


def _unique(names: Sequence[str]) -> list[str]:
    """The names, of which those that come again get a number."""
    taken: set[str] = set()
    unique = []
    for name in names:
        candidate, number = name, 1
        while candidate.lower() in taken:  # to some disks A and a are one
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.lower())
        unique.append(candidate)
    return unique
