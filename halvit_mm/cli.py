"""What the commands in ``tools/`` share."""

import os
import re
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta

from .errors import UserError

#: How a data loader's process hands on an error: its traceback becomes the message.
_FROM_WORKER = re.compile(r"Caught \w+ in .*\bprocess \d+\.\nOriginal Traceback")
#: What mmcv's LoadImageFromFile ends with, where an image cannot be read.
_IMAGE_LOADER = "mmcv/transforms/loading.py"
_IMAGE_FAULTS = (
    (r"AssertionError: failed to load image: (?P<file>.+)", "this is no image that can be decoded"),
    (r"FileNotFoundError: .*'(?P<file>.+)'", "there is no such image"),
    (r"PermissionError: .*'(?P<file>.+)'", "the image may not be read"),
    (r"!buf\.empty\(\)", "an image is an empty file; `find FOLDER -empty` lists such files"),
)


def run(main: Callable[[], int | None]) -> None:
    """Runs ``main`` and exits with its status (0 for None).

    A :class:`UserError` becomes one line on stderr and status 2, also one of a process that loads
    data, and so does an image that cannot be read; Ctrl-C becomes status 130. Of several processes
    that torch's launcher started and that meet the same mistake, one says so.
    """
    try:
        status = main()
    except (KeyboardInterrupt, Exception) as error:
        if _is_ctrl_c(error):
            print("interrupted", file=sys.stderr)
            status = 130
        elif (sentence := _sentence(error)) is not None:
            if not _is_told_already(sentence):
                print(f"error: {sentence}", file=sys.stderr)
            status = 2
        else:
            raise
    sys.exit(status or 0)


def _is_ctrl_c(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or what mmengine makes of it while it formats a config.

    It does so at every checkpoint, and takes whatever ends it for a fault of the config.
    """
    if isinstance(error, SyntaxError):
        error = error.__context__
    return isinstance(error, KeyboardInterrupt)


def _is_told_already(sentence: str) -> bool:
    """Whether another of several processes has met the same mistake and says so."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    from torch.distributed import TCPStore  # by which torch's launcher lets processes meet

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"halvit_mm/told/{sentence}", 1) > 1
    except (KeyError, ValueError, RuntimeError):
        return False  # twice is better than never


def _sentence(error: Exception) -> str | None:
    """What to tell the user; None for an error that is not the user's."""
    if isinstance(error, UserError):
        text = str(error)
        if _FROM_WORKER.match(text):
            text = text.rpartition(f"\n{UserError.__module__}.{UserError.__name__}: ")[2].strip()
        return text
    trace = "".join(traceback.format_exception(error))
    if _IMAGE_LOADER not in trace.replace("\\", "/"):
        return None
    for pattern, fault in _IMAGE_FAULTS:
        found = re.search(pattern, trace)
        if found:
            file = found.groupdict().get("file")
            return f"{file}: {fault}: replace or remove it" if file else fault
    return None
