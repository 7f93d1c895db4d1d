"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError


@contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A path in the folder of ``target`` to write to and then :func:`os.replace` with.

    What is left there at the end is removed, so that an error leaves neither half a file nor a
    changed one. The folder is made if need be.

    Raises:
        UserError: The folder cannot be made or written to.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Opened here rather than with tempfile: its files are readable by their owner only.
        temporary.open("xb").close()
    except OSError as error:
        raise UserError(
            f"{target}: cannot write there ({error.strerror}); choose another path"
        ) from error
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
