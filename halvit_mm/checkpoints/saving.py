"""Writing checkpoints whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import whole_file
from . import safetensors_format


def new_file(target: str | Path, source: str | Path) -> Path:
    """The path of a file that is to be made of another one.

    Raises:
        UserError: It exists.
    """
    target = Path(target).expanduser()
    if target.exists():
        source_path = Path(source).expanduser()
        if source_path.exists() and target.samefile(source_path):
            raise UserError(f"{target}: this is the source itself; give another name to write to")
        raise UserError(f"{target}: this exists already; remove it or give another name")
    return target


def save_checkpoint(content: dict[str, Any], target: Path) -> None:
    """Writes a checkpoint in the place of ``target``; the same content gives the same bytes.

    Args:
        content: What is saved; of a file of safetensors, ``state_dict`` and ``meta`` only.
        target: The file; ``*.safetensors`` is written in that format, others by torch.

    Raises:
        UserError: The folder cannot be made or written to, the disk is full, or the content does
            not fit the format.
    """
    with whole_file(target) as temporary:
        write_checkpoint(content, temporary, form=target.suffix)


def write_checkpoint(content: dict[str, Any], path: Path, *, form: str) -> None:
    """Writes a checkpoint to ``path`` in the form that the suffix ``form`` stands for.

    Raises:
        UserError: The content does not fit the format.
        OSError: It cannot be written.
    """
    if form.lower() == safetensors_format.SUFFIX:
        return safetensors_format.write(content, path)
    try:
        with path.open("wb") as file:  # by its path, torch would write the name into the file
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # which torch buries while it cleans up
            raise error.__context__ from None
        raise
