"""Room on the disk: pictures on the page go when they are old, or when there are too many.

Gradio can delete pictures by their age, but gives that up for good once a picture comes while it
looks for old ones. It also leaves the folders that it makes for them, one for each.
"""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

#: A folder that is empty for so many seconds is not about to be written to.
_SETTLED = 60


@contextmanager
def keep_room(
    folder: Path,
    *,
    age: float,
    most_bytes: int,
    seconds: float,
    forget: Callable[[Collection[str]], None],
) -> Iterator[None]:
    """Looks after a folder until the block ends. What lies there in the beginning stays.

    Args:
        folder: Where pictures are.
        age: Seconds after which they go.
        most_bytes: Their size in all; the oldest go first.
        seconds: How often to look.
        forget: Called with what has gone.
    """
    over = threading.Event()
    own = frozenset(path for _, _, path in _files(folder))

    def look_after() -> None:
        while not over.wait(seconds):
            forget(make_room(folder, age=age, most_bytes=most_bytes, own=own))

    thread = threading.Thread(target=look_after, name="room", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def make_room(
    folder: Path,
    *,
    age: float,
    most_bytes: int,
    own: Collection[str] = (),
    settled: float = _SETTLED,
) -> list[str]:
    """Removes old files, the oldest as long as there are too many bytes, and empty folders.

    Args:
        folder: What is in it, not it itself.
        age: Seconds after which files go.
        most_bytes: Size of all that may stay.
        own: Files that stay in any case.
        settled: Seconds since its last change after which an empty folder goes.

    Returns:
        The files that have gone.
    """
    now = time.time()
    files = sorted(file for file in _files(folder) if file[2] not in own)
    surplus = sum(size for _, size, _ in files) - most_bytes
    gone = []
    for changed, size, path in files:
        if surplus <= 0 and changed > now - age:
            break
        Path(path).unlink(missing_ok=True)
        gone.append(path)
        surplus -= size
    for place, folders, names in os.walk(folder, topdown=False):
        if place != os.fspath(folder) and not folders and not names:
            _remove_empty(place, before=now - settled)
    return gone


def _files(folder: Path) -> list[tuple[float, int, str]]:
    """When each file was written, its size, and its path."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            try:
                state = os.lstat(path)
            except FileNotFoundError:  # it has gone since it was listed
                continue
            found.append((state.st_ctime, state.st_size, path))
    return found


def _remove_empty(folder: str, *, before: float) -> None:
    try:
        if os.stat(folder).st_mtime < before:
            os.rmdir(folder)
    except OSError:  # it is in use again, or gone
        pass
