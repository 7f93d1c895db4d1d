"""What stops a training from outside, told in one sentence that says how it goes on."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from .last_checkpoint import last_checkpoint

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: How torch reports a loader's process that is gone, and an operator that it has in one form only.
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (.+)", re.DOTALL)
_OPERATOR = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def interruptions(work_dir: str | Path, *, training: bool = True) -> Iterator[None]:
    """Tells what happened, and how it goes on, instead of a traceback.

    Args:
        work_dir: The run's folder.
        training: Whether there is a training, which can go on from a checkpoint.

    Raises:
        UserError: The disk is full, a process that loads data was ended, or an operator cannot do
            what ``--deterministic`` asks for.
    """
    try:
        yield
    except (OSError, UserError) as error:
        cause = error.__cause__ if isinstance(error, UserError) else error
        if not isinstance(cause, OSError) or cause.errno not in _FULL:
            raise
        named = re.match("(.+): cannot write it", str(error))  # by files.whole_file
        file = named[1] if named else cause.filename or work_dir
        raise UserError(
            f"{file}: cannot write it ({cause.strerror}), so this stops; make room, then "
            f"{going_on(work_dir, training=training)}"
        ) from error
    except RuntimeError as error:
        if ended := _WORKER.search(str(error)):
            how = re.split(r"[.\n]", ended[1])[0]
            loader = "train_dataloader" if training else "test_dataloader"
            raise UserError(
                f"a process that loads data {how}, mostly for want of memory (shared memory in a "
                f"container): lower {loader}.num_workers or its batch_size, then "
                f"{going_on(work_dir, training=training)}"
            ) from error
        if operator := _OPERATOR.search(str(error)):
            raise UserError(
                f"--deterministic: {operator[1]} has no deterministic form in PyTorch on this "
                "device; leave out --deterministic, or the part of the model that needs it"
            ) from error
        raise


def going_on(work_dir: str | Path, *, training: bool = True) -> str:
    """How a run that stopped goes on: the end of a sentence."""
    if not training:
        return "start again"
    try:
        found = last_checkpoint(work_dir)
    except (OSError, UserError):
        found = None
    if found is None:
        return "train again from the beginning: there is no checkpoint yet"
    return f"--resume goes on from the last good checkpoint, {found}"
