"""A model under measurement, in the process that is its own.

The functions here are called in a :class:`~halvit_mm.benchmark.group.Worker`, one after the other.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from .case import Case
from .counting import count_flops, count_moved_bytes
from .memory import PeakMemory
from .sources import Source
from .tasks import TASKS


class Subject:
    """A model, its batch and, in training, its optimiser.

    Args:
        source: What makes the model.
        case: What the model does.
    """

    def __init__(self, source: Source, case: Case) -> None:
        self.case = case
        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        source.load()
        self.task = TASKS[case.task](
            batch=case.batch,
            size=case.size,
            classes=case.classes,
            device=case.device,
            channels_last=case.channels_last,
        )
        if case.backend == "compile":
            _load_compiler(case)
        self.memory = PeakMemory(case.device)
        self.model = source.build().to(case.device)
        if case.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.task.prepare(self.model)
        if case.mode == "training":
            self.model.train()
            self.optimizer = torch.optim.AdamW(trained(self.model))
        else:
            self.model.eval()
        if case.backend == "compile":
            _compiled_part(self.model, case).compile()

    def step(self) -> None:
        """One inference or one step of training."""
        case = self.case
        autocast = torch.autocast(case.device, torch.bfloat16, enabled=case.dtype == "bf16")
        if case.mode == "inference":
            with torch.inference_mode(), autocast:
                self.task.predict(self.model)
            return
        with autocast:
            loss = self.task.loss(self.model)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


_subject: Subject | None = None


def load(source: Source, threads: int) -> None:
    """Imports what the model of this process needs."""
    torch.set_num_threads(threads)
    source.load()


def start(source: Source, case: Case) -> float:
    """Makes the model of this process and does one step; seconds of a second one."""
    global _subject
    _subject = Subject(source, case)
    _time(1)
    seconds = _time(1)
    # Compiling takes memory of its own, once.
    _subject.memory.restart()
    return seconds


def turn(steps: int) -> float:
    """Does so many steps; seconds of one."""
    return _time(steps) / steps


def peak() -> int:
    """Peak memory of the model and its steps, in bytes."""
    return _subject.memory.read()


def count() -> dict[str, int]:
    """FLOPs and bytes moved of a step; see :mod:`halvit_mm.benchmark.counting`."""
    # Counters see what compiled code was made from, not the code itself.
    with torch.compiler.set_stance("force_eager"):
        return {
            "FLOPs": count_flops(_subject.step),
            "bytes moved": count_moved_bytes(_subject.step),
        }


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [param for param in model.parameters() if param.requires_grad]


def _time(steps: int) -> float:
    """Seconds of so many steps together."""
    synchronize: Callable = torch.cuda.synchronize if _subject.case.device == "cuda" else _nothing
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        _subject.step()
    synchronize()
    return time.perf_counter() - start


def _nothing() -> None:
    pass


def _compiled_part(model: nn.Module, case: Case) -> nn.Module:
    return model.backbone if case.task == "detection" else model


def _load_compiler(case: Case) -> None:
    """Compiles something small, so that the compiler's own memory is there before the model's."""
    small = nn.Linear(4, 4).to(case.device)
    small.compile()
    small(torch.ones(2, 4, device=case.device)).sum().backward()
