"""Trainings that are killed again and again, each time at a random moment, and resumed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from processes import zygote
from slow_training import TRAIN

from halvit_mm.checkpoints.reading import read_checkpoint

#: What is compared of each checkpoint, bit by bit.
PARTS = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "epoch_state")

SEEDED = ["--cfg-options", "randomness.seed=3"]


@dataclass(kw_only=True)
class Kills:
    """What became of a training that was killed.

    Attributes:
        moments: For each kill, what it waited for: the start, a checkpoint being written, or a
            random time in training.
        within_writes: How many kills left an unfinished checkpoint behind.
        commands: How many of the killed processes were started as a command of their own.
        orphans: How many processes that loaded data for those killed were left.
        seconds: All in all.
    """

    moments: list[str] = field(default_factory=list)
    within_writes: int = 0
    commands: int = 0
    orphans: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Starter:
    """Starts trainings in a folder, one at a time, without importing anything anew."""

    folder: Path

    @property
    def output(self) -> Path:
        """What all of them have printed."""
        return self.folder / "output.txt"

    def command(self, arguments: list[str]) -> subprocess.Popen:
        """Starts a training as a command of its own."""
        with self.output.open("a") as output:
            return subprocess.Popen(
                [sys.executable, TRAIN, *arguments],
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def start(self, arguments: list[str]) -> int:
        """Starts a training; returns its process."""
        script = [str(Path(__file__).with_name("slow_training.py")), *arguments]
        return zygote().start(
            script, self.folder, self.output, self.output, CUDA_VISIBLE_DEVICES=""
        )

    def wait(self) -> int:
        """The training's status."""
        return zygote().wait()

    def train(self, arguments: list[str]) -> None:
        """Trains to the end."""
        self.start(arguments)
        assert self.wait() == 0, self.output.read_text()[-3000:]


def kill_and_resume(
    starter: Starter,
    config: Path,
    work: Path,
    *,
    kills: int,
    commands: int,
    seed: int,
    arguments: list[str],
    workers: tuple[int, ...] = (0,),
) -> Kills:
    """Trains in ``work``, killed ``kills`` times and resumed each time, then to the end.

    Args:
        starter: Starts the processes.
        config: The config.
        work: Folder of the training.
        kills: How often it is killed.
        commands: How many of the first processes are started by the command itself.
        seed: Of the moments.
        arguments: Further ones of ``tools/train.py``.
        workers: Numbers of processes that load data, taken in turns.
    """
    began = time.monotonic()
    draw = random.Random(seed)
    result = Kills(commands=commands)

    def options(turn: int) -> list[str]:
        count = workers[turn % len(workers)]
        loader = [f"train_dataloader.num_workers={count}"]
        loader += [f"train_dataloader.persistent_workers={count > 0}", *SEEDED[1:]]
        more = ["--resume", "--work-dir", str(work), *arguments]
        return [str(config), *more, "--cfg-options", *loader]

    for turn in range(kills):
        left_over = _unfinished(work)
        moment = draw.choices(("start", "write", "training"), (1, 3, 4))[0]
        if turn < commands:
            moment = "training"
            command = starter.command(options(turn))
            process, wait = command.pid, command.wait
        else:
            process, wait = starter.start(options(turn)), starter.wait
        _wait_for(moment, work, process, draw)
        os.kill(process, signal.SIGKILL)
        wait()
        result.orphans += _left(process)
        result.moments.append(moment)
        result.within_writes += bool(_unfinished(work) - left_over)
    starter.train(options(kills))
    result.seconds = time.monotonic() - began
    return result


def _wait_for(
    moment: Literal["start", "write", "training"], work: Path, process: int, draw: random.Random
) -> None:
    """Waits for a kind of moment in a process that has just been started."""
    if moment == "start":
        return time.sleep(draw.uniform(0, 1.5))
    # So that each of these kills comes later in training than the one before.
    before = _noted(work)
    _until(lambda: _noted(work) != before, process)
    if moment == "training":
        return time.sleep(draw.uniform(0, 0.4))
    old = _unfinished(work)
    _until(lambda: _unfinished(work) - old, process)
    time.sleep(draw.uniform(0, 0.06))


def _noted(work: Path) -> int:
    try:
        return (work / "last_checkpoint").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _left(group: int) -> int:
    """How many processes of a group there still are, seconds after its first was killed."""
    deadline = time.monotonic() + 5
    while (left := _alive(group)) and time.monotonic() < deadline:
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    return left


def _alive(group: int) -> int:
    alive = 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # State, parent and group come after the name in brackets.
            state, _, its_group, *_ = status.read_text().rpartition(")")[2].split()
            alive += int(its_group) == group and state not in "ZX"
    return alive


def _unfinished(work: Path) -> set[Path]:
    return set(work.glob(".*.pth.*.tmp"))


def _until(happened: Callable[[], Any], process: int) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        os.kill(process, 0)  # it is alive
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.0005)


def differences(one: Path, other: Path) -> list[str]:
    """What differs between the checkpoints in two folders: files, or parts of them, by name."""
    names = [{path.name for path in folder.glob("*.pth")} for folder in (one, other)]
    if names[0] != names[1]:
        return [f"files {sorted(names[0])} and {sorted(names[1])}"]
    found = []
    for name in sorted(names[0]):
        a, b = (read_checkpoint(folder / name) for folder in (one, other))
        found += [f"{name}: {key}" for key in ("epoch", "iter") if a["meta"][key] != b["meta"][key]]
        found += [f"{name}: {part}" for part in PARTS if not same_bits(a.get(part), b.get(part))]
    return found


def same_bits(one: Any, other: Any) -> bool:
    """Whether two values are the same to the last bit, tensors in dicts and lists included."""
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))
        )
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same_bits(one[key], other[key]) for key in one)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return one == other
