"""What resuming needs of a training loop, in checkpoints beside mmengine's own parts."""

from typing import Any, Protocol

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..errors import UserError

#: Under this name a checkpoint holds it.
KEY = "epoch_state"


class ResumableLoop(Protocol):
    """A loop that says what it needs to go on."""

    def state_at(self, meta: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint needs; ``meta`` is its own, with the numbers of complete iterations."""

    def restore(self, state: dict[str, Any], path: str) -> None:
        """Continues from what :meth:`state_at` returned; ``path`` is the checkpoint's."""


class LoopStateHook(Hook):
    """Puts the state of the loop into checkpoints and takes it from them."""

    def __init__(self, loop: ResumableLoop) -> None:
        self.loop = loop
        self.gradients: dict[str, Tensor] = {}

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Forgets the gradients of the last pause."""
        self.gradients = {}

    # An epoch can end and a validation begin between two updates. Checkpoints are saved by one
    # process, which knows nothing of the others' gradients, and therefore they meet here.
    def after_train_epoch(self, runner: Runner) -> None:
        """Collects gradients that wait for an update."""
        self.gradients = _pending_gradients(runner.model)

    def before_val_epoch(self, runner: Runner) -> None:
        """Collects gradients that wait for an update."""
        self.gradients = _pending_gradients(runner.model)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Puts the loop's state and the waiting gradients into the checkpoint."""
        state = self.loop.state_at(checkpoint["meta"])
        checkpoint[KEY] = {**state, "gradients": self.gradients}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes both over from a checkpoint that is resumed."""
        if not runner.cfg.get("resume") or KEY not in checkpoint:
            return
        state = checkpoint[KEY]
        self.loop.restore(state, runner.cfg.get("load_from") or "the checkpoint")
        if state["gradients"]:
            parameters = dict(_unwrapped(runner.model).named_parameters())
            for name, gradient in state["gradients"].items():
                parameters[name].grad = gradient.to(parameters[name].device)
            runner.logger.info("resumed with the gradients accumulated since the last update")


def _pending_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients that no update has used yet, averaged over all processes.

    Raises:
        UserError: There are some, and each process has a share of them.
    """
    trained = {
        name: parameter
        for name, parameter in _unwrapped(model).named_parameters()
        if parameter.requires_grad
    }
    if all(parameter.grad is None for parameter in trained.values()):
        return {}
    if isinstance(model, FullyShardedDataParallel):
        raise UserError(
            "optim_wrapper.accumulative_counts: an epoch or the batches before a validation end "
            "between two updates, and gradients that strategy divides cannot be saved then: choose "
            "a number that divides these batches"
        )
    gradients = {}
    for name, parameter in trained.items():
        gradient = parameter.grad
        gradient = torch.zeros_like(parameter) if gradient is None else gradient.clone()
        all_reduce(gradient, "mean")
        gradients[name] = gradient.cpu()
    return gradients


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
