"""What the options of a training change in a config of mmdet's or mmpretrain's."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from ..datasets.check_classes import type_name
from ..errors import UserError


def set_train_loop(cfg: Config) -> None:
    """Lets training resume where it was, within an epoch too, and with the same random numbers."""
    loop = cfg.train_cfg
    by_epoch = loop.get("by_epoch")
    if by_epoch or _is(loop, "EpochBasedTrainLoop"):
        kind = "ResumableEpochTrainLoop"
    elif by_epoch is False or _is(loop, "IterBasedTrainLoop"):
        kind = "ResumableIterTrainLoop"
        loop.pop("fast_forward_on_resume", None)  # it always is fast
    else:
        return
    loop.pop("by_epoch", None)
    loop.type = kind


def set_checkpoint_hooks(cfg: Config) -> None:
    """Lets old checkpoints be removed when the new one is safe, where mmengine does it before."""
    hooks = dict(cfg.get("default_hooks") or {})
    saving = hooks.setdefault("checkpoint", dict(type="CheckpointHook"))  # mmengine's default, too
    for hook in [saving, *(cfg.get("custom_hooks") or [])]:
        if _is(hook, "CheckpointHook"):
            hook["type"] = "SafeCheckpointHook"
    cfg.default_hooks = hooks


def set_checkpoint_interval(cfg: Config, interval: int) -> None:
    """Saves every ``interval`` iterations, beside the checkpoints of epochs.

    Raises:
        UserError: The interval is less than 1.
    """
    if interval < 1:
        raise UserError(f"--checkpoint-interval {interval}: give a number of iterations above 0")
    hooks = [h for h in cfg.get("custom_hooks") or [] if not _is(h, "MidEpochCheckpointHook")]
    cfg.custom_hooks = [*hooks, dict(type="MidEpochCheckpointHook", interval=interval)]


def set_accumulation(cfg: Config) -> list[str]:
    """Fits to the updates what mmengine counts by batches, where gradients are accumulated.

    Checkpoints by iterations come after an update, as they hold no gradients. Moving averages are
    left to :func:`average_after_updates`.

    Returns:
        What there is to say about it.
    """
    counts = cfg.optim_wrapper.get("accumulative_counts", 1)
    if counts == 1:
        return []
    notes = []
    saving = (cfg.get("default_hooks") or {}).get("checkpoint")
    for hook in [saving, *(cfg.get("custom_hooks") or [])]:
        by_iterations = _is(hook, "MidEpochCheckpointHook") or (
            _is(hook, "CheckpointHook") and not hook.get("by_epoch", True)
        )
        if by_iterations and (interval := hook.get("interval", -1)) % counts and interval > 0:
            hook["interval"] = interval + counts - interval % counts
            notes.append(
                f"accumulative_counts={counts}: checkpoints every {hook['interval']} iterations "
                f"instead of {interval}, so that each comes after an update"
            )
    return notes


def average_after_updates(runner: Runner) -> None:
    """Lets moving averages move with each update, where gradients are accumulated.

    mmengine moves them with each batch. An ``interval`` that the config sets still counts batches.
    """
    counts = runner.cfg.optim_wrapper.get("accumulative_counts", 1)
    for hook in runner.hooks if counts > 1 else ():
        if isinstance(hook, EMAHook) and "interval" not in hook.ema_cfg:
            hook.after_train_iter = partial(_move_average, hook, hook.after_train_iter)
            runner.logger.info(
                f"accumulative_counts={counts}: the moving average moves once in {counts} batches"
            )


def _move_average(hook: EMAHook, move: Callable[..., None], runner: Runner, **batch: Any) -> None:
    # The average starts with the first weights, which it copies when it is called first.
    if runner.optim_wrapper.should_update() or hook.ema_model.steps == 0:
        move(runner, **batch)


def scale_learning_rate(runner: Runner) -> None:
    """Makes mmengine's scaling by the batch size count accumulated batches too."""
    # FlexibleRunner leaves it to its strategy.
    holder, option = runner, "auto_scale_lr"
    if hasattr(runner, "strategy"):
        holder, option = runner.strategy, "_auto_scale_lr"
    scaling = getattr(holder, option)
    counts = runner.cfg.optim_wrapper.get("accumulative_counts", 1)
    if not scaling or not scaling.get("enable") or counts == 1:
        return
    base = scaling["base_batch_size"]
    # mmengine divides the images of one batch on all processes by this number.
    setattr(holder, option, {**scaling, "base_batch_size": base / counts})
    images = runner.cfg.train_dataloader.batch_size
    runner.logger.info(
        f"auto_scale_lr: an update is of {runner.world_size} processes × {images} images × "
        f"{counts} accumulated batches = {runner.world_size * images * counts} images, the "
        f"learning rate belongs to {base} (÷ {counts} = {base / counts:g} a batch, below)"
    )


def _is(component: dict | None, name: str) -> bool:
    return component is not None and type_name(component) == name
