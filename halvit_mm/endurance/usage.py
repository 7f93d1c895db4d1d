"""What a process and those that it started take from the machine, read from Linux' ``/proc``."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

_PROC = Path("/proc")
_KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What is held at one moment.

    Attributes:
        resident: Resident memory of the process itself, in bytes.
        children: Resident memory of the processes below it, in bytes; pages that several share
            count for each.
        anonymous: Memory that no file backs, of all of them, in bytes; pages that several share
            count once. Leaks show here, and what other programs do does not.
        processes: How many there are, itself included.
        threads: Of all of them.
        descriptors: Open files, sockets and pipes of all of them.
    """

    resident: int
    children: int
    anonymous: int
    processes: int
    threads: int
    descriptors: int


def usage(pid: int) -> Usage:
    """Looks at a process and at all below it.

    Raises:
        UserError: This system has no ``/proc`` as Linux has.
        ProcessLookupError: The process has ended.
    """
    if not (_PROC / "self" / "smaps_rollup").exists():
        raise UserError("memory is watched through Linux' /proc: run this on Linux")
    own = _look(pid)
    below = []
    for child in _descendants(pid):
        try:
            below.append(_look(child))
        except ProcessLookupError:  # it has ended since the list was made
            continue
    every = [own, *below]
    return Usage(
        resident=own.resident,
        children=sum(one.resident for one in below),
        anonymous=sum(one.anonymous for one in every),
        processes=len(every),
        threads=sum(one.threads for one in every),
        descriptors=sum(one.descriptors for one in every),
    )


def _look(pid: int) -> Usage:
    """One process, without those below it."""
    folder = _PROC / str(pid)
    try:
        memory = _kibibytes(folder / "smaps_rollup")
        threads = len(os.listdir(folder / "task"))
        descriptors = len(os.listdir(folder / "fd"))
    except OSError as error:  # a process that ends while it is read gives ESRCH
        raise ProcessLookupError(f"process {pid} has ended") from error
    if "Rss" not in memory:  # a zombie has no memory left
        raise ProcessLookupError(f"process {pid} has ended")
    return Usage(
        resident=memory["Rss"] * _KIB,
        children=0,
        anonymous=(memory["Pss_Anon"] + memory["Pss_Shmem"]) * _KIB,
        processes=1,
        threads=threads,
        descriptors=descriptors,
    )


def _kibibytes(table: Path) -> dict[str, int]:
    rows = (line.split() for line in table.read_text().splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) for row in rows}


def _descendants(pid: int) -> list[int]:
    """All processes below one, found by who started whom."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                # Behind the name, which may hold anything: state and parent.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
