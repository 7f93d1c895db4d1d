"""Training that is interrupted anywhere and continues as if it had not been.

mmengine saves by iterations but resumes by epochs: it begins the epoch again, trains twice on what
came before the checkpoint and counts iterations past the end. Its checkpoints lack how far the
epoch had come, the seed of the sampler, which it draws anew when none is configured, gradients that
are still being accumulated, and whether the validation that was due has been. Nor does it go on
with the same random numbers; here they follow from the place in the training (``randomness``).
"""

from typing import Any

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..errors import UserError
from .batches import EndlessBatches, RemainingBatches, exchange_batches
from .loop_state import LoopStateHook
from .randomness import seed_generators


class _Resumable:
    """What both kinds of loop have in common; goes before mmengine's loop among the parents."""

    runner: Runner
    batches: RemainingBatches
    _iter: int
    #: Whether a checkpoint that is saved now comes after the validation.
    _validating = False
    #: Whether the checkpoint resumed from was saved before a validation that was due.
    _validation_owed = False

    def run_iter(self, *args: Any) -> None:
        """Trains on one batch, with random numbers that follow from the iteration."""
        seed_generators(self.runner.seed, self.runner.rank, self._iter, devices=True)
        super().run_iter(*args)

    def validate(self) -> None:
        self._validating = True
        self.runner.val_loop.run()
        self._validating = False

    def state_at(self, meta: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint needs; ``meta`` is its own, with the numbers of complete iterations."""
        return {
            "seed": getattr(self.batches.sampler, "seed", None),
            "processes": self.runner.world_size,
            "validated": self._validating,
        }

    def restore(self, state: dict[str, Any], path: str) -> None:
        """Continues from what :meth:`state_at` returned; ``path`` is the checkpoint's."""
        if state["seed"] is not None:
            self.batches.sampler.seed = state["seed"]
        # Checkpoints of earlier versions lack these two.
        self._validation_owed = not state.get("validated", True)
        before, now = state.get("processes", self.runner.world_size), self.runner.world_size
        if before != now:
            self.runner.logger.warning(
                f"{path}: saved by {before} processes, resumed by {now}: images and random numbers "
                "are not those with which the training would have gone on"
            )


@LOOPS.register_module()
class ResumableEpochTrainLoop(_Resumable, EpochBasedTrainLoop):
    """mmengine's loop over epochs, which resumes with the batches that an epoch has left.

    They come in the order in which they would have come, as a sampler's order follows from its
    seed and the epoch, and with the same random numbers.

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
        self.batches = RemainingBatches(self.dataloader.batch_sampler, self)
        exchange_batches(self.dataloader, self.batches)
        self._epoch_began = 0
        runner.register_hook(LoopStateHook(self))

    def run(self) -> nn.Module:
        """Trains to the last epoch."""
        self.runner.call_hook("before_train")
        self._epoch_began = self._iter - self.batches.first
        if self._validation_owed and self.batches.first == 0 and self._epoch > 0:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Trains on the batches that this epoch has left; all of them unless it was resumed."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for idx, data_batch in enumerate(self.dataloader, start=self.batches.first):
            self.run_iter(idx, data_batch)
        self.batches.first = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self._epoch_began = self._iter

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self.validate()

    def state_at(self, meta: dict[str, Any]) -> dict[str, Any]:
        """How far the epoch is at a checkpoint, and how it goes on.

        Args:
            meta: The checkpoint's ``epoch`` and ``iter``, the numbers of complete ones.
        """
        within = meta["epoch"] == self._epoch  # else it is saved as the next one
        return {
            **super().state_at(meta),
            "batches": meta["iter"] - self._epoch_began if within else 0,
            "of": len(self.batches),
        }

    def restore(self, state: dict[str, Any], path: str) -> None:
        """Continues from what :meth:`state_at` returned; ``path`` is the checkpoint's."""
        done, total = state.get("batches", 0), state.get("of")
        if done and total != len(self.batches):
            raise UserError(
                f"{path}: saved after {done} of an epoch's {total} batches, but "
                f"an epoch has {len(self.batches)} now; resume with the same data, batch size and "
                "number of processes, or from a checkpoint of an epoch's end"
            )
        super().restore(state, path)
        self.batches.first = done
        if done:
            self.runner.logger.info(
                f"resumed within an epoch: {done} of its {total} batches are done"
            )


@LOOPS.register_module()
class ResumableIterTrainLoop(_Resumable, IterBasedTrainLoop):
    """mmengine's loop over iterations, which resumes with the batch that would have been next.

    The batches before it are counted, not loaded. Where the data come to an end, they begin again
    as the next epoch, without a pause.

    Args:
        runner: The runner, whose checkpoints are extended.
        dataloader: A data loader with a batch sampler, or its config.
        max_iters: Number of iterations.
        val_begin: The first iteration, from 1, that may be followed by a validation.
        val_interval: Number of iterations from one validation to the next.
        dynamic_intervals: Pairs (iteration, interval): the interval from that iteration on.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(
            runner,
            dataloader,
            max_iters,
            val_begin=val_begin,
            val_interval=val_interval,
            dynamic_intervals=dynamic_intervals,
        )
        self.batches = RemainingBatches(EndlessBatches(self.dataloader.batch_sampler), self)
        exchange_batches(self.dataloader, self.batches)
        runner.register_hook(LoopStateHook(self))

    def run(self) -> nn.Module:
        """Trains to the last iteration; for hooks, all of it is one epoch."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        if self._validation_owed and self._iter > 0:
            self._validate_if_due()
        self.batches.first = self._iter
        self.dataloader_iterator = iter(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._validate_if_due()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
            self.validate()
