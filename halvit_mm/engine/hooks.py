"""Hooks for mmengine's runner."""

from collections.abc import Collection
from numbers import Integral

from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ..analysis.weightless import build_without_weights
from ..checkpoints.class_layers import class_layers, other_classes
from ..checkpoints.loading import MIN_FRACTION, compare
from ..errors import UserError


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Refuses a checkpoint that does not fit the model, before anything of it is loaded.

    It serves ``load_from``, testing and resuming, where mmengine itself would go on with what
    happens to fit: a head for other classes would silently stay random.

    Args:
        min_fraction: Share of the model's parameters, counted in elements, that must load. 0
            accepts anything but other classes.
        new_head: Leaves out the layers whose size follows from the number of classes, so that they
            start anew; all others must load.

    Raises:
        UserError: Less would load, the checkpoint is for another number of classes, or training is
            to be resumed from bare weights.
    """

    #: Before EMAHook, which loads the weights on its own account.
    priority = "VERY_HIGH"

    def __init__(self, *, min_fraction: float = MIN_FRACTION, new_head: bool = False) -> None:
        self.min_fraction = min_fraction
        self.new_head = new_head

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compares the checkpoint with the model before it is loaded, and logs what fits.

        Raises:
            UserError: Too little fits.
        """
        path = runner.cfg.get("load_from") or "the checkpoint"
        anew = self._leave_out_head(runner, checkpoint) if self.new_head else ()
        state_dict = checkpoint.get("state_dict", checkpoint)
        fitting = {
            name.removeprefix("module."): value
            for name, value in state_dict.items()
            if isinstance(value, Tensor)  # a file of weights alone may tell their epoch, too
        }
        report = compare(_whole(runner), fitting, ignored=anew)
        if report.mismatched:
            self._check_classes(runner, fitting, path)
        if report.fraction < self.min_fraction:
            raise UserError(
                f"{path}: the checkpoint does not fit the model, less than {self.min_fraction:.0%} "
                "would load; give one of the same config, or pass --allow-partial to load what "
                f"fits\n  {report.summary()}\n{report.details()}"
            )
        log = runner.logger.info if report.complete else runner.logger.warning
        log(f"{path}: {report.summary()}")
        if runner.cfg.get("resume") and not {"meta", "message_hub"} <= checkpoint.keys():
            raise UserError(
                f"{path}: only weights, no state of a training to resume; "
                "start from it with --load-from FILE instead of --resume"
            )
        if runner.cfg.get("resume") and not all(
            isinstance(checkpoint["meta"].get(count), Integral) and checkpoint["meta"][count] >= 0
            for count in ("epoch", "iter")
        ):
            raise UserError(
                f"{path}: the checkpoint does not say how far its training was; start from it with "
                "--load-from FILE instead of --resume"
            )

    def _leave_out_head(self, runner: Runner, checkpoint: dict) -> Collection[str]:
        layers = class_layers(runner.cfg)
        if not layers:
            raise UserError("--new-head: the config's model has no num_classes; leave it out")
        # The average is what mmpretrain's EMAHook starts from.
        for weights in (checkpoint.get("state_dict", checkpoint), checkpoint.get("ema_state_dict")):
            for name in layers if weights else ():
                weights.pop(name, None)
                weights.pop(f"module.{name}", None)
        runner.logger.info(f"--new-head: {len(layers)} tensors start anew, {', '.join(layers)}")
        return layers.keys()

    def _check_classes(self, runner: Runner, state_dict: dict, path: str) -> None:
        differing = other_classes(class_layers(runner.cfg), state_dict)
        if differing:
            places = " and ".join(f"{option}={own}" for option, (own, _) in differing.items())
            counts = " and ".join(map(str, sorted({given for _, given in differing.values()})))
            raise UserError(
                f"{path}: the checkpoint is for {counts} classes, {places}; give one for the same "
                "classes, or train from it with --load-from FILE --new-head, which starts the "
                "layers that tell classes apart anew"
            )


def _whole(runner: Runner) -> nn.Module:
    """The model with the shapes of whole weights, where each process has a share of them."""
    if isinstance(runner.model, FullyShardedDataParallel):
        return build_without_weights(runner.cfg)
    return runner.model


@HOOKS.register_module()
class EvaluationProgressHook(Hook):
    """Reports an evaluation's progress and remaining time at each tenth of it.

    mmengine's LoggerHook has one interval for training and evaluation; set for training, it
    leaves evaluations of a few slow steps silent.
    """

    priority = "BELOW_NORMAL"

    def after_val_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        """Reports ten times in a validation."""
        self._report(runner, batch_idx, len(runner.val_dataloader), "val")

    def after_test_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        """Reports ten times in a test."""
        self._report(runner, batch_idx, len(runner.test_dataloader), "test")

    def _report(self, runner: Runner, batch_idx: int, total: int, mode: str) -> None:
        interval = max(1, total // 10)
        reported = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        if self.every_n_inner_iters(batch_idx, interval) and not any(
            self.every_n_inner_iters(batch_idx, other) for other in reported
        ):
            _, line = runner.log_processor.get_log_after_iter(runner, batch_idx, mode)
            runner.logger.info(line)
