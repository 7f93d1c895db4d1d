"""Which images a training loads next, and with which random numbers."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from typing import Any

from mmengine.runner import BaseLoop
from torch.utils.data import BatchSampler, DataLoader, Sampler

from ..errors import UserError
from .randomness import SeededBatch

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class RemainingBatches(Sampler):
    """The batches of another batch sampler from ``first`` on; its length stays that of all.

    Indices are left out, not images, so that skipping takes no time in any number of workers.

    Args:
        batches: All batches.
        loop: The training loop, from whose seed, process and iteration the random numbers of each
            image follow.
    """

    def __init__(self, batches: BatchSampler, loop: BaseLoop) -> None:
        self.batches = batches
        self.first = 0
        self._loop = loop

    @property
    def sampler(self) -> Any:
        """What chooses the images; mmengine tells it the epoch."""
        return getattr(self.batches, "sampler", None)

    @property
    def batch_size(self) -> int | None:
        """Images of a batch, which mmengine's FlexibleRunner asks for."""
        return getattr(self.batches, "batch_size", None)

    def __iter__(self) -> Iterator[SeededBatch]:
        runner = self._loop.runner
        remaining = islice(self.batches, self.first, None)
        for iteration, indices in enumerate(remaining, start=self._loop.iter):
            yield SeededBatch(indices, runner.seed, (runner.rank, iteration))

    def __len__(self) -> int:
        return len(self.batches)


class EndlessBatches(Sampler):
    """The batches of another batch sampler, again and again, each time as the next epoch.

    Raises:
        UserError: There is not one batch.
    """

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches

    @property
    def sampler(self) -> Any:
        """The sampler of the images, which learns of each new epoch."""
        return getattr(self.batches, "sampler", None)

    @property
    def batch_size(self) -> int | None:
        """Images in a batch; None where the batches do not say."""
        return getattr(self.batches, "batch_size", None)

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in count():
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            indices = None
            for indices in self.batches:
                yield indices
            if indices is None:
                raise UserError(
                    "train_dataloader: there are fewer images than one batch needs; take a smaller "
                    "batch_size, or leave out drop_last"
                )

    def __len__(self) -> int:
        return len(self.batches)


def exchange_batches(loader: DataLoader, batches: Sampler) -> None:
    """Lets a loader take its batches from another sampler, and its processes end with this one.

    A DataLoader refuses to exchange its parts, lest it be done while they are in use. A process of
    its that is orphaned by a kill can wait forever at a full pipe, which nobody empties any more.
    """
    object.__setattr__(loader, "batch_sampler", batches)
    loader.worker_init_fn = partial(_end_with_parent, os.getpid(), loader.worker_init_fn)


def _end_with_parent(parent: int, init: Callable[[int], None] | None, worker: int) -> None:
    """Initialises a process that loads data; Linux shall end it when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended before it was said
            os.kill(os.getpid(), signal.SIGKILL)
    if init is not None:
        init(worker)
