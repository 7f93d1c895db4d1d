"""Writing checkpoints whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import temporary_beside


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

    Raises:
        UserError: The folder cannot be made or written to.
    """
    with temporary_beside(target) as temporary:
        with temporary.open("wb") as file:  # by its path, torch would write the name into the file
            torch.save(content, file)
        os.replace(temporary, target)
