"""Time and memory of training steps, measured on configs side by side, and what follows from them.

Timings on a shared machine drift by more than models differ. So each config trains in a process of
its own, the processes take turns, and what counts is the ratio of their times.
"""

import copy
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from ..datasets.check import check_dataset, count_classes
from .synthetic import synthetic_batch


@dataclass(kw_only=True)
class StepFigures:
    """Measurements of one config.

    Attributes:
        batch: Images of a training step.
        epoch: Images of the training data; None where these are synthetic.
        seconds: Time of each training step.
        peak_mib: Peak memory above what the process held before it built the model, in MiB: on a
            CUDA device of the allocator, on the CPU resident memory.
    """

    batch: int
    epoch: int | None
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    @property
    def median(self) -> float:
        """Median time of a step in seconds."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """Throughput of training steps; loading data is not in it."""
        return self.batch / self.median

    def schedule_hours(
        self, train_cfg: Mapping[str, Any], *, images: int | None = None, gpus: int = 1
    ) -> float | None:
        """Hours of a whole schedule, without loading data and without validation.

        Args:
            train_cfg: The config's loop: ``max_epochs`` or ``max_iters``.
            images: Images of an epoch; by default those of the training data.
            gpus: Devices like this one, which are taken to divide an epoch without any loss.

        Returns:
            The hours; None if the number of images is not known.
        """
        if "max_iters" in train_cfg:  # all devices do every iteration
            return train_cfg["max_iters"] * self.median / 3600
        images = images or self.epoch
        if images is None:
            return None
        return train_cfg["max_epochs"] * images / (gpus * self.images_per_second) / 3600


def measure_training(
    configs: Sequence[Config],
    *,
    rounds: int = 5,
    steps: int = 2,
    threads: int | None = None,
    synthetic: bool = False,
) -> list[StepFigures]:
    """Trains configs in turns on the first batch of their training data.

    Args:
        configs: Configs of mmdet or mmpretrain.
        rounds: How often each config gets its turn; one more goes before, unmeasured.
        steps: Training steps of a turn: forward, backward and update.
        threads: Threads of torch in each process.
        synthetic: Trains classifiers on noise that went through their training pipeline, so that no
            data are needed.

    Returns:
        The figures of each config.

    Raises:
        UserError: The training data of a config are missing or contradict its model, or it takes no
            synthetic ones.
    """
    for cfg in configs:
        if not synthetic:
            check_dataset(
                cfg.train_dataloader.dataset,
                option="train_dataloader.dataset",
                num_classes=count_classes(cfg.model),
            )
    figures = []
    with ExitStack() as stack:
        # A pool of one process each, so that its state lasts from turn to turn.
        spawn = multiprocessing.get_context("spawn")
        workers = [stack.enter_context(spawn.Pool(1)) for _ in configs]
        for worker, cfg in zip(workers, configs, strict=True):
            batch, epoch = worker.apply(_start, (cfg.to_dict(), cfg.filename, threads, synthetic))
            figures.append(StepFigures(batch=batch, epoch=epoch))
        for turn in range(rounds + 1):
            for worker, figure in zip(workers, figures, strict=True):
                seconds, figure.peak_mib = worker.apply(_train, (steps,))
                if turn:
                    figure.seconds += seconds
    return figures


def resident_memory() -> int:
    """The highest resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


#: What a measured process keeps between its turns.
_state: dict[str, Any] = {}


def _start(
    cfg_dict: dict, filename: str | None, threads: int | None, synthetic: bool
) -> tuple[int, int | None]:
    """Builds what is trained; images of a step and, if there are data, of an epoch."""
    import halvit_mm  # noqa: F401  registers the models in this new process

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    cfg = Config(cfg_dict, filename=filename)
    # A scope's name also tells mmengine which library to import for its registries.
    DefaultScope.get_instance("measured", scope_name=cfg.get("default_scope", "mmengine"))
    if synthetic:
        batch, epoch = synthetic_batch(cfg), None
    else:
        loader = cfg.train_dataloader | dict(num_workers=0, persistent_workers=False)
        loader = Runner.build_dataloader(loader, seed=0)
        batch, epoch = next(iter(loader)), len(loader.dataset)
    _state["batch"] = batch
    _state["before"] = resident_memory()
    cuda = torch.cuda.is_available()
    if cfg.get("data_preprocessor") is not None:  # as the runner does
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    model = MODELS.build(cfg.model).to("cuda" if cuda else "cpu").train()
    _state["model"] = model
    _state["optim_wrapper"] = build_optim_wrapper(model, cfg.optim_wrapper)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    return len(batch["inputs"]), epoch


def _train(steps: int) -> tuple[list[float], float]:
    """Times of so many steps in seconds, and the peak memory so far in MiB."""
    model, optim_wrapper = _state["model"], _state["optim_wrapper"]
    cuda = torch.cuda.is_available()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        model.train_step(copy.deepcopy(_state["batch"]), optim_wrapper)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if cuda else resident_memory() - _state["before"]
    return seconds, peak / 2**20
