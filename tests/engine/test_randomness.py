"""Random numbers as a function of the seed and the place in the training."""

import pickle
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import worker_init_fn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from halvit_mm.engine.batches import EndlessBatches, RemainingBatches, exchange_batches
from halvit_mm.engine.randomness import SeededBatch, seed_generators
from halvit_mm.errors import UserError


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def drawn(seed: int, *place: int, devices: bool = False) -> tuple[float, float, float]:
    seed_generators(seed, *place, devices=devices)
    return draw()


def test_random_numbers_follow_from_seed_and_place():
    assert drawn(3, 0, 7) == drawn(3, 0, 7) == drawn(3, 0, 7, devices=True)
    places = [(3,), (3, 0), (3, 0, 0), (3, 7), (3, 0, 7), (3, 7, 0), (4, 0, 7), (0, 0, 7)]
    # None of the three generators has the same number in two places.
    for numbers in zip(*(drawn(*place) for place in places), strict=True):
        assert len(set(numbers)) == len(places)


def test_random_numbers_of_neighbouring_places_are_independent():
    """The numbers of 4000 places do not correlate with those of the next places, within 5 sigma."""
    first = np.array([drawn(0, 0, i) for i in range(4001)])
    assert np.abs(first.mean(0) - 0.5).max() < 5 / np.sqrt(12 * 4000)
    for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0)]:
        assert abs(np.corrcoef(first[:-1, a], first[1:, b])[0, 1]) < 5 / np.sqrt(4000)


def test_a_batch_seeds_when_its_images_are_loaded_and_not_before():
    batch = SeededBatch([5, 6], 3, (0, 7))
    random.seed(0)
    expected = random.random()
    random.seed(0)
    copy = pickle.loads(pickle.dumps(batch))  # as a loader hands it over, in another thread
    assert random.random() == expected
    assert copy == batch
    assert len(copy) == 2
    assert [(index, draw()) for index in copy] == [(5, drawn(3, 0, 7, 0)), (6, drawn(3, 0, 7, 1))]


class Drawing(Dataset):
    """Images whose augmentation is three random numbers."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple:
        return index, *draw()


def epochs(workers: int, *, persistent: bool = False, first: int = 0) -> list[list[list[float]]]:
    """What three epochs of four batches load, the first epoch from its batch ``first`` on."""
    loop = SimpleNamespace(runner=SimpleNamespace(seed=3, rank=0), iter=first)
    batches = RemainingBatches(BatchSampler(range(12), batch_size=3, drop_last=False), loop)
    loader = DataLoader(
        Drawing(), batch_sampler=batches, num_workers=workers, persistent_workers=persistent
    )
    batches.first = first
    seen = []
    for _ in range(3):
        seen.append([torch.stack(batch).tolist() for batch in loader])
        loop.iter += len(seen[-1])
        batches.first = 0
    return seen


def test_augmentation_depends_neither_on_the_workers_nor_on_where_an_epoch_was_resumed():
    alone = epochs(0)
    assert epochs(1) == epochs(2) == epochs(3, persistent=True) == alone
    resumed = epochs(2, first=2)
    assert resumed == [alone[0][2:], *alone[1:]]
    numbers = [number for epoch in alone for batch in epoch for number in batch[1]]
    assert len(set(numbers)) == 36


def test_mmengine_alone_repeats_the_random_numbers_in_each_epoch():
    """What this is the cure for: its loader's processes are seeded anew, the same, each epoch."""
    init = lambda worker: worker_init_fn(worker, num_workers=2, rank=0, seed=3)  # noqa: E731
    loader = DataLoader(Drawing(), batch_size=3, num_workers=2, worker_init_fn=init)
    one, other = ([torch.stack(batch).tolist() for batch in loader] for _ in range(2))
    assert one == other


class Shuffled(torch.utils.data.Sampler):
    """A sampler whose order depends on the epoch, as mmengine's do."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(7)
        return iter(order.tolist())

    def __len__(self) -> int:
        return 7


def take(batches, count: int, first: int = 0) -> list[list[int]]:
    loop = SimpleNamespace(runner=SimpleNamespace(seed=3, rank=0), iter=first)
    remaining = RemainingBatches(batches, loop)
    remaining.first = first
    given = [batch for _, batch in zip(range(count), remaining, strict=False)]
    assert [batch.place for batch in given] == [(0, i) for i in range(first, first + count)]
    return [list(batch.indices) for batch in given]


def test_batches_without_end_can_begin_anywhere():
    def endless() -> EndlessBatches:
        return EndlessBatches(BatchSampler(Shuffled(), batch_size=3, drop_last=False))

    whole = take(endless(), 9)
    for epoch in range(3):
        order = np.random.default_rng(epoch).permutation(7).tolist()
        assert whole[3 * epoch : 3 * epoch + 3] == [order[:3], order[3:6], order[6:]]
    for first in (1, 3, 7):
        assert take(endless(), 9 - first, first) == whole[first:]


def test_batches_of_which_there_is_none_are_refused_instead_of_looked_for_without_end():
    batches = EndlessBatches(BatchSampler(range(2), batch_size=3, drop_last=True))
    with pytest.raises(UserError, match="fewer images than one batch needs; take a smaller"):
        next(iter(batches))


def test_a_loader_takes_the_exchanged_batches():
    loader = DataLoader(range(6), batch_size=2)
    exchange_batches(loader, BatchSampler([3, 1], batch_size=1, drop_last=False))
    assert [batch.tolist() for batch in loader] == [[3], [1]]
