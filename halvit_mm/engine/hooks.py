"""Hooks for mmengine's runner."""

from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoints.loading import MIN_FRACTION, compare
from ..errors import UserError


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Refuses a checkpoint that does not fit the model, before anything of it is loaded.

    It serves ``load_from``, testing and resuming, where mmengine itself would go on with what
    happens to fit.

    Args:
        min_fraction: Share of the model's parameters, counted in elements, that must load. 0
            accepts anything.

    Raises:
        UserError: Less would load, or training is to be resumed from bare weights.
    """

    #: Before EMAHook, which loads the weights on its own account.
    priority = "VERY_HIGH"

    def __init__(self, *, min_fraction: float = MIN_FRACTION) -> None:
        self.min_fraction = min_fraction

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        path = runner.cfg.get("load_from") or "the checkpoint"
        state_dict = checkpoint.get("state_dict", checkpoint)
        state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
        report = compare(runner.model, state_dict)
        if report.fraction < self.min_fraction:
            raise UserError(
                f"{path}: the checkpoint does not fit the model, less than {self.min_fraction:.0%} "
                "would load; give one of the same config, or pass --allow-partial to load what "
                f"fits\n  {report.summary()}\n{report.details()}"
            )
        if not report.complete:
            runner.logger.warning(f"{path}: {report.summary()}")
        if runner.cfg.get("resume") and not {"meta", "message_hub"} <= checkpoint.keys():
            raise UserError(
                f"{path}: only weights, no state of a training to resume; "
                "start from it with --cfg-options load_from=FILE instead of --resume"
            )


@HOOKS.register_module()
class EvaluationProgressHook(Hook):
    """Reports an evaluation's progress and remaining time at each tenth of it.

    mmengine's LoggerHook has one interval for training and evaluation; set for training, it
    leaves evaluations of a few slow steps silent.
    """

    priority = "BELOW_NORMAL"

    def after_val_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        self._report(runner, batch_idx, len(runner.val_dataloader), "val")

    def after_test_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        self._report(runner, batch_idx, len(runner.test_dataloader), "test")

    def _report(self, runner: Runner, batch_idx: int, total: int, mode: str) -> None:
        interval = max(1, total // 10)
        reported = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        if self.every_n_inner_iters(batch_idx, interval) and not any(
            self.every_n_inner_iters(batch_idx, other) for other in reported
        ):
            _, line = runner.log_processor.get_log_after_iter(runner, batch_idx, mode)
            runner.logger.info(line)
