"""The folders and files that a data set's config names."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError


def find_root(dataset: Mapping, *, option: str) -> Path:
    """The folder that the other paths are relative to; ``.`` if none is set."""
    return _folder(Path(dataset.get("data_root") or ""), f"{option}.data_root", "data set")


def find_images(root: Path, prefix: str, *, option: str) -> Path:
    """The folder of the images."""
    return _folder(root / prefix, f"{option}.data_prefix", "images")


def find_ann_file(root: Path, name: str, *, option: str) -> Path:
    """The annotation file."""
    file = root / name
    if not file.is_file():
        raise UserError(
            f"the annotation file {file} does not exist{_where(file)}: correct {option}.ann_file, "
            "or make the data set"
        )
    return file


def read_text(file: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        UserError: It cannot be read, or is written otherwise.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; make it readable") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not written in UTF-8 ({error}): save it as UTF-8") from error


def is_text(text: str) -> bool:
    """Whether a name has letters, all of which UTF-8 can write and a path can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return bool(text.strip()) and "\0" not in text


def _folder(folder: Path, option: str, content: str) -> Path:
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(
            f"the folder of the {content} {folder} {problem}{_where(folder)}: correct {option}, or "
            "make the data set"
        )
    return folder


def _where(path: Path) -> str:
    return "" if path.is_absolute() else f" (in {Path.cwd()})"
