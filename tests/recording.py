"""Hooks that write down what a training sees, and end it at a given iteration."""

import os
import signal
import time
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class RecordImagesHook(Hook):
    """Appends a line for each batch to ``<file>.<rank>``: epoch, iteration, batch, lr, images."""

    def __init__(self, *, file: str) -> None:
        self.file = file

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        images = [Path(sample.img_path).stem for sample in data_batch["data_samples"]]
        (lr, *_) = runner.optim_wrapper.get_lr()["lr"]
        with Path(f"{self.file}.{get_rank()}").open("a") as file:
            print(runner.epoch, runner.iter, batch_idx, lr.hex(), *images, file=file)


@HOOKS.register_module()
class EndAfterHook(Hook):
    """Ends training after so many iterations: by an exception, or as if by kill -9."""

    priority = "VERY_HIGH"

    def __init__(self, *, iterations: int, kill: bool = False) -> None:
        self.iterations = iterations
        self.kill = kill

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if runner.iter == self.iterations:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise InterruptedError(f"after {self.iterations} iterations")


@HOOKS.register_module()
class LoseProcessHook(Hook):
    """Has one of several processes killed, fail or fall silent within an iteration."""

    def __init__(self, *, iteration: int, how: str, rank: int = 1) -> None:
        self.iteration = iteration
        self.how = how
        self.rank = rank

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if (runner.iter, runner.rank) != (self.iteration, self.rank):
            return
        Path("lost_at").write_text(str(time.time()))
        if self.how == "fail":
            raise ZeroDivisionError("for once")
        os.kill(os.getpid(), getattr(signal, self.how))


def batches_of(file: Path, rank: int = 0) -> list[list[str]]:
    """What was recorded, a list a batch."""
    return [line.split() for line in Path(f"{file}.{rank}").read_text().splitlines()]
