"""Commands that need one another, run several at a time; what is finished is not run again."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...benchmark.machine import cores
from ...errors import UserError
from .logs import logged_accuracy

_LOG_LINES = 8  # that are told of a log where a process failed
_POLL = 0.1  # seconds


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command.

    Attributes:
        name: What it is called, e.g. ``"seed0/scratch_250"``.
        tool: A file in the folder of the tools.
        arguments: What the tool is called with.
        product: A file that is there once the command has ended well.
        log: Where its output goes.
        training: The work directory, if the command is a training; ``product`` is then an empty
            file that is made when it has ended well.
        needs: Names of jobs that have to be finished before.
    """

    name: str
    tool: str
    arguments: tuple[str, ...]
    product: Path
    log: Path
    training: Path | None = None
    needs: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether what it makes is there."""
        return self.product.exists()


def name_of(path: Path) -> str:
    """The name of the job that makes a file or folder."""
    return f"{path.parent.name}/{path.name}"


def run_jobs(
    jobs: Sequence[Job],
    *,
    tools: Path,
    at_once: int = 1,
    tell: Callable[[str], None] = print,
) -> dict[str, str]:
    """Runs what is not finished. Where something fails, all that does not need it goes on.

    Args:
        jobs: The commands, in the order in which they are to start.
        tools: The folder of the tools.
        at_once: How many run at a time; they share the cores, unless ``OMP_NUM_THREADS`` is set.
        tell: Gets a line for what goes on.

    Returns:
        Why jobs failed, by their names.
    """
    by_name = {job.name: job for job in jobs}
    waiting = [job for job in jobs if not job.finished]
    finished = len(jobs) - len(waiting)
    tell(f"{finished} of {len(jobs)} parts are finished already")
    failures: dict[str, str] = {}
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    try:
        while waiting or running:
            for job in tuple(waiting):
                if broken := next((name for name in job.needs if name in failures), None):
                    failures[job.name] = f"needs {broken}, which failed"
                    waiting.remove(job)
                elif len(running) < at_once and all(by_name[n].finished for n in job.needs):
                    running[job.name] = _start(job, tools, at_once), time.monotonic()
                    waiting.remove(job)
            ended = [name for name, (process, _) in running.items() if process.poll() is not None]
            for name in ended:
                process, since = running.pop(name)
                line = f"{name}, {time.monotonic() - since:.0f} s"
                if fault := _fault(by_name[name], process.returncode):
                    failures[name] = fault
                    tell(f"{line}: {fault}")
                else:
                    finished += 1
                    tell(f"[{finished}/{len(jobs)}] {line}")
            if running and not ended:
                time.sleep(_POLL)
    finally:
        _stop([process for process, _ in running.values()])
    return failures


def _start(job: Job, tools: Path, at_once: int) -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // at_once)))
    with job.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(tools / job.tool), *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )


def _fault(job: Job, status: int) -> str | None:
    """What went wrong, with the end of the log; marks a training that went well as done."""
    if status == 0 and job.training:
        try:
            logged_accuracy(job.training)
        except UserError as error:
            return str(error)
        job.product.touch()
    if status == 0 and job.finished:
        return None
    text = job.log.read_text(encoding="utf-8", errors="replace").rstrip()
    end = "".join(f"\n  {line}" for line in text.splitlines()[-_LOG_LINES:])
    return f"failed with status {status}{end}" if status else f"left no {job.product.name}{end}"


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
