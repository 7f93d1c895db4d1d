"""NaN and infinite numbers in training, caught before they reach the weights.

One bad update spoils all weights for good, and without a look at the log nobody notices until the
training has ended. What is looked at is what an update is made of: all losses and gradients since
the last one, of all processes.
"""

from typing import Any, Literal, get_args

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..datasets.check_classes import type_name
from ..errors import UserError
from .bad_batches import Batch, Finding, describe, losses_of, samples_of
from .finite import any_bad, bad_names, listed
from .interruptions import going_on
from .steps import ask_before_steps, gradients

Action = Literal["stop", "skip"]
ACTIONS: tuple[Action, ...] = get_args(Action)

#: A GradScaler starts at 2¹⁶ and halves its scale at each update that it leaves out: after so many
#: in a row it is not the scale that makes gradients infinite.
_SCALER_PATIENCE = 24
#: Buffers that are running statistics; others may be infinite on purpose, as masks are.
_STATISTICS = ("running_mean", "running_var")


@HOOKS.register_module()
class BadNumbersHook(Hook):
    """Stops training, or leaves out the update, where losses or gradients are not finite.

    All processes decide alike, for which they exchange one number an update. Where an update is
    left out, the gradients accumulated for it are dropped, and running statistics of norms go back
    to what they were, so that neither the weights nor a moving average take in anything of it.
    Updates that a ``GradScaler`` leaves out while it looks for its scale are no fault.

    Weights that are not finite are not saved, whatever ``action`` says; none are loaded either
    (``checkpoints.contents``).

    Args:
        action: ``"stop"`` or ``"skip"``.
        max_consecutive: How many updates in a row may be left out.
        max_total: How many may be left out in all.

    Raises:
        UserError: Training stops.
    """

    #: After EMAHook, whose weights are saved as well.
    priority = "LOW"

    def __init__(
        self, *, action: Action = "stop", max_consecutive: int = 10, max_total: int = 100
    ) -> None:
        if action not in ACTIONS:
            raise UserError(
                f"BadNumbersHook: action={action!r} is unknown: give {' or '.join(ACTIONS)}"
            )
        self.action = action
        self.max_consecutive = max_consecutive
        self.max_total = max_total
        self.skipped: list[int] = []
        self._in_a_row = 0
        self._left_to_scaler = 0
        self._batches: list[Batch] = []  # since the last update
        self._buffers: list[tuple[Tensor, Tensor]] = []  # and what was in them before these

    def before_train(self, runner: Runner) -> None:
        """Asks to be asked before each update."""
        self._runner = runner
        self._model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._model.register_forward_hook(self._note_losses)
        ask_before_steps(runner.optim_wrapper, self._may_step)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Notes the batch, and the buffers that a skipped update goes back to."""
        if not self._batches and self.action == "skip":
            self._buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        self._batches.append(Batch(list(samples_of(data_batch))))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuses to save weights that are not finite.

        Raises:
            UserError: A tensor of the model holds NaN or infinite numbers.
        """
        if bad := _bad_weights(checkpoint, runner.model):
            raise UserError(
                f"iteration {runner.iter}: {len(bad)} tensors of the model hold NaN or infinite "
                f"numbers ({listed(bad)}) and are not saved: lower the learning rate, then "
                f"{going_on(runner.work_dir)}"
            )

    def after_train(self, runner: Runner) -> None:
        """Tells which updates were left out."""
        if self.skipped:
            runner.logger.warning(
                f"bad numbers: {len(self.skipped)} updates were left out, in iterations "
                f"{listed([str(one) for one in self.skipped], most=20)}"
            )

    def _note_losses(self, model: nn.Module, inputs: Any, output: Any) -> None:
        if self._batches and model.training:
            self._batches[-1].losses |= losses_of(output)

    def _may_step(self, wrapper: OptimWrapper) -> bool:
        """Whether the weights may move, which all processes answer alike."""
        bad_loss, bad_gradient = _anywhere(
            any_bad(loss for batch in self._batches for loss in batch.values().values()),
            any_bad(gradient for _, gradient in gradients(wrapper)),
        )
        if getattr(wrapper, "loss_scaler", None) is not None and not bad_loss:
            self._left_to_scaler = self._left_to_scaler + 1 if bad_gradient else 0
            bad_gradient = self._left_to_scaler > _SCALER_PATIENCE
        if bad_loss or bad_gradient:
            self._refuse(self._fault(wrapper))
        else:
            self._in_a_row = 0
        self._batches.clear()
        return not (bad_loss or bad_gradient)

    def _refuse(self, fault: str) -> None:
        """Ends the training, or undoes what the batches since the last update have done to it."""
        fault = f"bad numbers in iteration {self._runner.iter + 1}: {fault}"
        look = "lower the learning rate or look at these images"
        then = going_on(self._runner.work_dir)
        if self.action == "stop":
            raise UserError(
                f"{fault}; training has stopped before they reached the weights: {look}, or pass "
                f"--on-bad-numbers skip to leave such updates out; {then}"
            )
        self.skipped.append(self._runner.iter + 1)
        self._in_a_row += 1
        if self._in_a_row > self.max_consecutive or len(self.skipped) > self.max_total:
            raise UserError(
                f"{fault}; {self._in_a_row} updates in a row, {len(self.skipped)} in all, are more "
                f"than may be left out: {look}; {then}"
            )
        self._runner.logger.warning(f"{fault}; this update is left out")
        for buffer, before in self._buffers:
            buffer.copy_(before)

    def _fault(self, wrapper: OptimWrapper) -> str:
        """What is wrong, put together from what each process knows."""
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        given = {names.get(id(p), "an unnamed one"): g for p, g in gradients(wrapper)}
        findings = all_gather_object(Finding.of(self._batches))
        return describe(findings, bad_names(given), of=len(given))


def set_bad_numbers(cfg: Config, action: Action | None) -> None:
    """Has every training watched for bad numbers, with what the config says of the hook.

    Args:
        cfg: A config; it is changed.
        action: What to do about them; None leaves it to the config.
    """
    hooks = list(cfg.get("custom_hooks") or [])
    own = next((hook for hook in hooks if type_name(hook) == BadNumbersHook.__name__), None)
    if own is None:
        own = dict(type=BadNumbersHook.__name__)
        hooks.append(own)
    if action is not None:
        own["action"] = action
    cfg.custom_hooks = hooks


def _anywhere(*flags: Tensor) -> list[bool]:
    """Which flags are raised in one of the processes; the one moment that waits for a GPU."""
    device = next((flag.device for flag in flags if flag.device.type != "cpu"), torch.device("cpu"))
    raised = torch.stack([flag.to(device, torch.float32) for flag in flags])
    all_reduce(raised, "max")
    return [bool(flag) for flag in raised.tolist()]


def _weights(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """What must be finite of a state: all but buffers that may be infinite on purpose, as masks."""
    free = {name for name, _ in model.named_buffers() if not name.endswith(_STATISTICS)}
    return {
        name: value
        for name, value in state_dict.items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and name.removeprefix("module.") not in free
    }


def _bad_weights(checkpoint: dict, model: nn.Module) -> list[str]:
    model = model.module if is_model_wrapper(model) else model
    states = [checkpoint.get("state_dict", checkpoint), checkpoint.get("ema_state_dict")]
    return [name for state in states if state for name in bad_names(_weights(state, model))]
