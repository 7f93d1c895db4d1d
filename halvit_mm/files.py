"""Files and folders that are written whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

# The ways in which writing fails that the user can put right.
_DENIED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
}


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


@contextmanager
def staged_folder(root: Path) -> Iterator[Path]:
    """Yields an empty folder beside ``root`` that takes its place when the block ends well.

    Whatever was at ``root`` goes away in that moment, not before. If the block raises, ``root``
    stays as it was and the new folder is removed.

    Raises:
        UserError: The disk is full or the place cannot be written to.
    """
    staging = root.with_name(f".{root.name}.{os.getpid()}.new")
    outgoing = root.with_name(f".{root.name}.{os.getpid()}.old")
    try:
        staging.mkdir(parents=True)
        yield staging
        if root.exists():
            root.rename(outgoing)
        staging.rename(root)
    except OSError as error:
        if error.errno not in _DENIED:
            raise
        raise UserError(
            f"cannot write {root}: {error.strerror}; choose a folder that you may write to, "
            "on a disk with room"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(outgoing, ignore_errors=True)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``target`` when the block ends well.

    Raises:
        UserError: The disk is full, or the place cannot be written to.
    """
    with temporary_beside(target) as temporary, told(target):
        yield temporary
        os.replace(temporary, target)


@contextmanager
def told(target: Path) -> Iterator[None]:
    """Tells the user of ``target``, where the block fails to write it.

    Raises:
        UserError: The disk is full, or the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DENIED:
            raise
        raise UserError(
            f"{target}: cannot write it ({error.strerror}); make room, or choose another place"
        ) from error


@contextmanager
def staged_files(target: Path) -> Iterator[Path]:
    """Yields a path of the same name in an empty folder beside ``target``.

    What is in that folder when the block ends well moves beside ``target``, itself last. If the
    block raises, nothing there changes.

    Raises:
        UserError: The disk is full or the place cannot be written to.
    """
    staging = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        staging.mkdir(parents=True)
        yield staging / target.name
        for file in sorted(staging.iterdir(), key=lambda file: file.name == target.name):
            os.replace(file, target.with_name(file.name))
    except OSError as error:
        if error.errno not in _DENIED:
            raise
        raise UserError(
            f"cannot write {target}: {error.strerror}; choose a folder that you may write to, "
            "on a disk with room"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
