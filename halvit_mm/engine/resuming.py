"""Training by epochs that continues in the middle of an epoch as if it had not been interrupted.

mmengine saves by iterations but resumes by epochs: it begins the epoch again, trains twice on what
came before the checkpoint and counts iterations past the end. Its checkpoints lack three things:
how far the epoch had come, the seed of the sampler, which it draws anew when none is configured,
and gradients that are still being accumulated.
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Sampler

from ..errors import UserError

#: Under this name a checkpoint holds what resuming within an epoch needs.
KEY = "epoch_state"
#: The checkpoint that :class:`MidEpochCheckpointHook` writes, again and again.
MID_EPOCH = "mid_epoch.pth"


class RemainingBatches(Sampler):
    """The batches of another batch sampler from ``first`` on; its length stays that of all.

    Indices are left out, not images, so that skipping takes no time in any number of workers.
    """

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches
        self.first = 0

    @property
    def sampler(self) -> Sampler:
        """What chooses the images; mmengine tells it the epoch."""
        return self.batches.sampler

    def __iter__(self) -> Iterator[list[int]]:
        return islice(self.batches, self.first, None)

    def __len__(self) -> int:
        return len(self.batches)


@LOOPS.register_module()
class ResumableEpochTrainLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which resumes with the batches that an epoch has left.

    They come in the order in which they would have come, as a sampler's order follows from its
    seed and the epoch. Random augmentation and drop path go on with other random numbers.

    Args:
        runner: The runner, whose checkpoints are extended.
        dataloader: A data loader with a batch sampler, or its config.
        max_epochs: Number of epochs.
        val_begin: The first epoch, from 1, that is followed by a validation.
        val_interval: Number of epochs from one validation to the next.
        dynamic_intervals: Pairs (epoch, interval): the interval from that epoch on.

    Raises:
        UserError: The checkpoint was saved within an epoch of another number of batches.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(
            runner,
            dataloader,
            max_epochs,
            val_begin=val_begin,
            val_interval=val_interval,
            dynamic_intervals=dynamic_intervals,
        )
        self.batches = RemainingBatches(self.dataloader.batch_sampler)
        # A DataLoader refuses to exchange its parts, lest it be done while they are in use.
        object.__setattr__(self.dataloader, "batch_sampler", self.batches)
        self._epoch_began = 0
        runner.register_hook(_EpochStateHook(self))

    def run_epoch(self) -> None:
        """Trains on the batches that this epoch has left; all of them unless it was resumed."""
        self._epoch_began = self._iter - self.batches.first
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for idx, data_batch in enumerate(self.dataloader, start=self.batches.first):
            self.run_iter(idx, data_batch)
        self.batches.first = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self._epoch_began = self._iter

    def state_at(self, meta: dict[str, Any]) -> dict[str, Any]:
        """How far the epoch is at a checkpoint, and the order in which it goes on.

        Args:
            meta: The checkpoint's ``epoch`` and ``iter``, the numbers of complete ones.
        """
        within = meta["epoch"] == self._epoch  # else it is saved as the next one
        return {
            "batches": meta["iter"] - self._epoch_began if within else 0,
            "of": len(self.batches),
            "seed": getattr(self.batches.sampler, "seed", None),
        }

    def restore(self, state: dict[str, Any], path: str) -> None:
        """Continues from what :meth:`state_at` returned; ``path`` is the checkpoint's."""
        if state["batches"] and state["of"] != len(self.batches):
            raise UserError(
                f"{path}: saved after {state['batches']} of an epoch's {state['of']} batches, but "
                f"an epoch has {len(self.batches)} now; resume with the same data, batch size and "
                "number of processes, or from a checkpoint of an epoch's end"
            )
        self.batches.first = state["batches"]
        if state["seed"] is not None:
            self.batches.sampler.seed = state["seed"]


class _EpochStateHook(Hook):
    """Puts the state of the loop into checkpoints and takes it from them."""

    def __init__(self, loop: ResumableEpochTrainLoop) -> None:
        self.loop = loop
        self.gradients: dict[str, Tensor] = {}

    def before_train_epoch(self, runner: Runner) -> None:
        self.gradients = {}

    def after_train_epoch(self, runner: Runner) -> None:
        # An epoch can end between two updates. Checkpoints are saved by one process, which knows
        # nothing of the others' gradients, and therefore they meet here.
        self.gradients = _pending_gradients(runner.model)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = self.loop.state_at(checkpoint["meta"])
        checkpoint[KEY] = {**state, "gradients": self.gradients}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not runner.cfg.get("resume") or KEY not in checkpoint:
            return
        state = checkpoint[KEY]
        self.loop.restore(state, runner.cfg.get("load_from") or "the checkpoint")
        if state["batches"]:
            runner.logger.info(
                f"resumed within an epoch: {state['batches']} of its {state['of']} batches are done"
            )
        if state["gradients"]:
            parameters = dict(_unwrapped(runner.model).named_parameters())
            for name, gradient in state["gradients"].items():
                parameters[name].grad = gradient.to(parameters[name].device)
            runner.logger.info("resumed with the gradients accumulated since the last update")


@HOOKS.register_module()
class MidEpochCheckpointHook(Hook):
    """Saves every so many iterations to one file, ``mid_epoch.pth``, so that a kill costs little.

    It comes in addition to mmengine's CheckpointHook, whose checkpoints of whole epochs stay. The
    file is exchanged whole, noted as the last checkpoint, and removed when training is over.

    Args:
        interval: Number of iterations from one to the next. With gradient accumulation it must be
            a multiple of ``accumulative_counts``, which ``launch.train`` sees to.
    """

    #: After all that changes the state, and after CheckpointHook.
    priority = "LOWEST"

    def __init__(self, *, interval: int) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if not self.every_n_train_iters(runner, self.interval) or runner.rank != 0:
            return
        path = Path(runner.work_dir) / MID_EPOCH
        unfinished = path.with_name(f".{MID_EPOCH}.tmp")
        runner.save_checkpoint(str(path.parent), unfinished.name, by_epoch=False)
        os.replace(unfinished, path)
        path.with_name("last_checkpoint").write_text(str(path))

    def after_train(self, runner: Runner) -> None:
        path = Path(runner.work_dir) / MID_EPOCH
        noted = path.with_name("last_checkpoint")
        if runner.rank == 0 and noted.is_file() and noted.read_text() != str(path):
            path.unlink(missing_ok=True)


def _pending_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients that no update has used yet, averaged over all processes."""
    trained = {
        name: parameter
        for name, parameter in _unwrapped(model).named_parameters()
        if parameter.requires_grad
    }
    if all(parameter.grad is None for parameter in trained.values()):
        return {}
    gradients = {}
    for name, parameter in trained.items():
        gradient = parameter.grad
        gradient = torch.zeros_like(parameter) if gradient is None else gradient.clone()
        all_reduce(gradient, "mean")
        gradients[name] = gradient.cpu()
    return gradients


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
