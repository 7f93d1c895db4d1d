"""Looking at a running command again and again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..carried import carried
from ..errors import UserError
from .trend import Trend, trend
from .usage import Usage, usage

_MIB = 2**20
_GRACE = 60  # seconds that a command has to end when it is told to


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was seen at one moment.

    Attributes:
        seconds: Since the command was started.
        done: How much work it had done.
        usage: What it held.
        files: How many files it had left in the folder for temporary ones.
        file_bytes: Their size.
    """

    seconds: float
    done: int
    usage: Usage
    files: int
    file_bytes: int


#: What is followed, and how it is read off a sample: memory in MiB, all else in numbers.
QUANTITIES: dict[str, Callable[[Sample], float]] = {
    "anonymous_mib": lambda sample: sample.usage.anonymous / _MIB,
    "resident_mib": lambda sample: sample.usage.resident / _MIB,
    "children_mib": lambda sample: sample.usage.children / _MIB,
    "processes": lambda sample: sample.usage.processes,
    "threads": lambda sample: sample.usage.threads,
    "descriptors": lambda sample: sample.usage.descriptors,
    "temporary_files": lambda sample: sample.files,
    "temporary_mib": lambda sample: sample.file_bytes / _MIB,
}


class Watch:
    """Samples of one process.

    Args:
        pid: The process.
        temporary: A folder whose files are counted.
    """

    def __init__(self, pid: int, *, temporary: Path | None = None) -> None:
        self.samples: list[Sample] = []
        self._pid = pid
        self._temporary = temporary
        self._start = time.monotonic()

    def sample(self, done: int) -> Sample:
        """Looks once; ``done`` says how much work has been done.

        Raises:
            ProcessLookupError: The process has ended.
        """
        held = usage(self._pid)
        files, size = _files(self._temporary) if self._temporary else (0, 0)
        seen = Sample(
            seconds=time.monotonic() - self._start,
            done=done,
            usage=held,
            files=files,
            file_bytes=size,
        )
        self.samples.append(seen)
        return seen


def trends(
    samples: Sequence[Sample], x: Callable[[Sample], float], *, warm_up: float
) -> dict[str, Trend]:
    """How each of :data:`QUANTITIES` grows with ``x``, from ``warm_up`` of it on.

    Raises:
        UserError: Fewer than three places are left.
    """
    warm = [sample for sample in samples if x(sample) >= warm_up]
    places = [x(sample) for sample in warm]
    if len(set(places)) < 3:
        raise UserError(
            f"{len(set(places))} of {len(samples)} looks at the process are past the warm-up, too "
            "few for a trend: let it run longer, look more often or shorten the warm-up"
        )
    return {name: trend(places, [read(s) for s in warm]) for name, read in QUANTITIES.items()}


def as_data(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """The samples by columns, for JSON."""
    columns: dict[str, list[float]] = {
        "seconds": [round(sample.seconds, 1) for sample in samples],
        "done": [sample.done for sample in samples],
    }
    for name, read in QUANTITIES.items():
        columns[name] = [round(read(sample), 2) for sample in samples]
    return columns


def trends_as_data(found: dict[str, Trend]) -> dict[str, dict[str, Any]]:
    """Trends for JSON, with four digits."""
    return {
        name: {k: v if isinstance(v, int) else float(f"{v:.4g}") for k, v in asdict(one).items()}
        for name, one in found.items()
    }


@contextmanager
def command(
    *arguments: str | Path, log: Path, temporary: Path | None = None
) -> Iterator[subprocess.Popen]:
    """One of the project's tools as a process of its own, ended when the block ends.

    Args:
        arguments: The tool's name and its arguments.
        log: File for all that it prints.
        temporary: Its folder for temporary files.

    Raises:
        UserError: It ended by itself with an error.
    """
    tool, *rest = map(str, arguments)
    env = dict(os.environ)
    if temporary is not None:
        env["TMPDIR"] = str(temporary)
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(carried("tools") / tool), *rest],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # Ctrl-C is ours to pass on
            preexec_fn=_listen_to_ctrl_c,
        )
    try:
        yield process
        if process.poll():
            raise UserError(f"tools/{tool} ended with status {process.returncode}: see {log}")
    finally:
        _end(process)


def _listen_to_ctrl_c() -> None:
    # Shells have what they start in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(process: subprocess.Popen) -> None:
    """Ctrl-C, and if that does not help, the end of all that it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _files(folder: Path) -> tuple[int, int]:
    """How many files lie below a folder, and their size in bytes."""
    number, size = 0, 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:  # removed since it was listed
                continue
            number += 1
    return number, size
