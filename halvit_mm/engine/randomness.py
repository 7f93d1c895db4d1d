"""Random numbers that follow from a seed and a place in the training, and from nothing else.

A training that was interrupted goes on with the numbers it would have had, without any state of a
generator being saved; nor do they depend on which process loads an image. mmengine seeds a loader's
processes by their number alone, the same in each epoch.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch


def seed_generators(seed: int, *place: int, devices: bool = False) -> None:
    """Seeds the generators of Python, numpy and torch.

    Args:
        seed: The run's seed.
        place: Numbers ≥ 0; other numbers, or another count of them, give other random numbers.
        devices: Seeds the generators of GPUs as well, not only the CPU's, which takes longer.
    """
    words = np.random.SeedSequence(seed, spawn_key=place).generate_state(3)
    of_python, of_numpy, of_torch = map(int, words)
    random.seed(of_python)
    np.random.seed(of_numpy)
    if devices:
        torch.manual_seed(of_torch)
    else:
        torch.default_generator.manual_seed(of_torch)


@dataclass(frozen=True)
class SeededBatch:
    """The indices of a batch, which seeds the generators before it gives one to be loaded.

    A data loader hands it to the process that loads the batch, and reads images one by one as it
    gets their indices. So data sets need no wrapper, whose attributes hooks would look for in vain.
    """

    indices: Sequence[int]
    seed: int
    place: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        for position, index in enumerate(self.indices):
            seed_generators(self.seed, *self.place, position)
            yield index
