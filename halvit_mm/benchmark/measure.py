"""Measures comparisons: cell by cell, the models of a cell in turns."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch

from ..errors import UserError
from . import counting, footprint, subject
from .case import Case
from .comparisons import Comparison, Contestant
from .group import Worker, WorkerError, usual_allocator, worker_environment
from .results import Cell
from .start_up import run_script

#: A turn lasts at least so many seconds, if that takes no more steps than this.
TURN = 0.3
MOST_STEPS = 1000

#: What to install for a package that is missing.
_CURES = {"timm": "pip install timm", "torchvision": "pip install torchvision"}
_OPENMMLAB = "pip install halvit_mm[onedl]"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured of each comparison.

    Attributes:
        modes: Which modes; by default all that a comparison has.
        peers: Only peers with one of these words in their labels.
        batches: Batch sizes; by default the comparison's.
        dtypes: ``fp32``, ``bf16`` or both.
        backends: ``eager``, ``compile`` or both.
        device: ``cpu`` or ``cuda``.
        channels_last: Memory format of convolutional comparisons.
        threads: Threads of each process.
        rounds: How often each model has its turn, after one that warms it up.
        steps: Steps of a turn; by default so many that each turn lasts :data:`TURN`.
    """

    modes: Sequence[str] | None = None
    peers: Sequence[str] | None = None
    batches: Sequence[int] | None = None
    dtypes: Sequence[str] = ("fp32",)
    backends: Sequence[str] = ("eager",)
    device: str = "cpu"
    channels_last: bool = False
    threads: int = 1
    rounds: int = 7
    steps: int | None = None


def choose(
    names: Sequence[str], among: Mapping[str, Comparison], settings: Settings
) -> dict[str, Comparison]:
    """Comparisons by their names, with the peers that the settings ask for.

    Args:
        names: Names; none for all that have such peers.
        among: The table.
        settings: What is to be measured.

    Raises:
        UserError: There is no such comparison or peer, a package that it needs is not installed, or
            the settings do not fit the comparisons or this machine.
    """
    for name in names:
        if name not in among:
            raise UserError(f"there is no comparison {name!r}; choose from {', '.join(among)}")
    chosen = {name: _with_peers(among[name], settings.peers) for name in names or among}
    chosen = {name: comparison for name, comparison in chosen.items() if comparison.peers}
    if not chosen:
        raise UserError(
            f"--peers {' '.join(settings.peers or ())}: no comparison has such a peer; give a word "
            "of a label, such as timm or twin"
        )
    _check_packages(chosen)
    _check_machine(chosen, settings)
    return chosen


def _with_peers(comparison: Comparison, words: Sequence[str] | None) -> Comparison:
    if words is None:
        return comparison
    peers = (peer for peer in comparison.peers if any(word in peer.label for word in words))
    return replace(comparison, peers=tuple(peers))


def _check_packages(chosen: Mapping[str, Comparison]) -> None:
    for name, comparison in chosen.items():
        for contestant in comparison.contestants:
            for package in contestant.source.requires:
                if find_spec(package) is None:
                    cure = _CURES.get(package, _OPENMMLAB)
                    raise UserError(
                        f"{name} compares with {contestant.label}, which needs {package}: {cure}"
                    )


def _check_machine(chosen: Mapping[str, Comparison], settings: Settings) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; leave it out")
    if settings.channels_last and not any(one.convolutional for one in chosen.values()):
        raise UserError(
            "--channels-last is for convolutional models, and none is chosen; choose half_resnet50 "
            "or half_resnext101, or leave it out"
        )
    if "compile" in settings.backends:
        compilers = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
        if not any(name and shutil.which(name) for name in compilers):
            raise UserError(
                "--backend compile: torch.compile needs a C++ compiler; install g++ (or name one "
                "in the variable CXX)"
            )


def cases(comparison: Comparison, settings: Settings) -> list[Case]:
    """The cases of a comparison."""
    common = Case(
        task=comparison.task,
        size=comparison.size,
        classes=comparison.classes,
        device=settings.device,
        channels_last=settings.channels_last and comparison.convolutional,
        threads=settings.threads,
    )
    found = []
    for mode in comparison.modes:
        if settings.modes and mode not in settings.modes:
            continue
        if mode in ("sizes", "start-up"):
            found.append(replace(common, mode=mode))
            continue
        found += [
            replace(common, mode=mode, batch=batch, dtype=dtype, backend=backend)
            for batch, dtype, backend in product(
                settings.batches or comparison.batches, settings.dtypes, settings.backends
            )
        ]
    return found


def measure_cell(name: str, comparison: Comparison, case: Case, settings: Settings) -> Cell:
    """Measures the models of a comparison in one case.

    Each model has a process of its own, made for this cell. They take turns, in reverse order in
    every other round, so that none gains by its place or by the drift of the machine. What fails is
    told in the cell, and the others go on without it. Where variables tune the allocator of glibc,
    which makes times steadier, peak memory is measured without them, in further processes.

    Returns:
        The cell, for JSON.
    """
    records = [_Record(contestant) for contestant in comparison.contestants]
    if case.mode == "start-up":
        steps = _start_interpreters(records, case, settings)
    else:
        try:
            _start_processes(records, case)
            steps = (_weigh if case.mode == "sizes" else _take_turns)(records, case, settings)
        finally:
            for record in records:
                record.close()
    models = [record.as_dict() for record in records]
    return {"comparison": name, **asdict(case), "steps": steps, "models": models}


def measure_peaks(device: str, threads: int) -> dict[str, float]:
    """The rates that this machine reaches; see :func:`halvit_mm.benchmark.counting.roofline`."""
    worker = Worker(worker_environment(threads))
    try:
        return worker.call(counting.roofline, threads, device)
    finally:
        worker.close()


def alternate(items: Sequence[Any], number: int) -> Iterable[Any]:
    """The order of a round: every other one is reversed."""
    return items if number % 2 == 0 else items[::-1]


class _Record:
    """What is known of one model of a cell, and its process."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self.worker: Worker | None = None
        self.measures: dict[str, list[float]] = {}
        self.error: str | None = None

    def attempt(self, function: Callable, *args: Any) -> Any:
        """The function's result; None once something failed."""
        if self.error:
            return None
        try:
            return function(*args)
        except WorkerError as error:
            self.error = str(error)
            self.close()
            return None

    def turn(self, function: Callable, *args: Any) -> Any:
        """The function's result in the process; None once something failed."""
        return self.attempt(lambda: self.worker.turn(function, *args))

    def add(self, measure: str, value: float | None) -> None:
        """Adds a value of this round, if there is one."""
        if value is not None:
            self.measures.setdefault(measure, []).append(value)

    def close(self) -> None:
        """Ends the process."""
        if self.worker:
            self.worker.close()
            self.worker = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        result = {"label": self.contestant.label, "measures": self.measures}
        return result | ({"error": self.error} if self.error else {})


def _start_processes(records: Iterable[_Record], case: Case) -> None:
    """Starts the processes, which import their libraries side by side."""
    for record in records:
        record.worker = Worker(worker_environment(case.threads))
        record.worker.send(subject.load, record.contestant.source, case.threads)
    for record in records:
        record.attempt(record.worker.receive)


def _take_turns(records: Sequence[_Record], case: Case, settings: Settings) -> int:
    """Times steps in turns; steps of a turn."""
    first = [record.turn(subject.start, record.contestant.source, case) for record in records]
    steps = settings.steps or _steps(min(filter(None, first), default=TURN))
    for number in range(settings.rounds):
        for record in alternate(records, number):
            record.add(f"{case.mode} time", record.turn(subject.turn, steps))
    for record in records:
        record.add(f"{case.mode} memory", record.turn(subject.peak))
        for measure, value in (record.turn(subject.count) or {}).items():
            record.add(measure, value)
        record.close()
    if usual_allocator():
        for record in records:
            _peak_apart(record, case)
    return steps


def _peak_apart(record: _Record, case: Case) -> None:
    """Measures peak memory anew, in a process whose allocator is not tuned for speed."""
    if record.error:
        return
    record.worker = Worker(worker_environment(case.threads) | usual_allocator())
    record.turn(subject.start, record.contestant.source, case)
    record.turn(subject.turn, 2)  # the peak counts from behind the warming up
    peak = record.turn(subject.peak)
    if peak is not None:
        record.measures[f"{case.mode} memory"] = [peak]
    record.close()


def _weigh(records: Iterable[_Record], case: Case, settings: Settings) -> int:
    for record in records:
        record.measures = record.turn(footprint.footprint, record.contestant.source, case) or {}
    return 1


def _start_interpreters(records: Sequence[_Record], case: Case, settings: Settings) -> int:
    environment = {**os.environ, **worker_environment(case.threads)}
    for number in range(-1, settings.rounds):  # the first brings the files into memory
        for record in alternate(records, number):
            seconds = record.attempt(run_script, record.contestant.source, environment)
            if number >= 0:
                record.add("start-up time", seconds)
    return 1


def _steps(seconds: float) -> int:
    """Steps of a turn, for a model that takes so many seconds for one."""
    return min(MOST_STEPS, max(1, math.ceil(TURN / seconds)))
