"""What the options of a training change in a config of mmdet's or mmpretrain's."""

from mmengine.config import Config
from mmengine.runner import Runner

from ..datasets.check_classes import type_name
from ..errors import UserError


def set_train_loop(cfg: Config) -> None:
    """Lets training by epochs resume within an epoch, where mmengine would begin it again."""
    loop = cfg.train_cfg
    if loop.get("by_epoch") or _is(loop, "EpochBasedTrainLoop"):
        loop.pop("by_epoch", None)
        loop.type = "ResumableEpochTrainLoop"


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

    Checkpoints by iterations come after an update, as they hold no gradients. The moving average
    moves once for each update, with the first batch after it, instead of once for each batch.

    Returns:
        What there is to say about it.
    """
    counts = cfg.optim_wrapper.get("accumulative_counts", 1)
    if counts == 1:
        return []
    notes = []
    saving = (cfg.get("default_hooks") or {}).get("checkpoint")
    for hook in [saving, *(cfg.get("custom_hooks") or [])]:
        if _is(hook, "EMAHook") and "interval" not in hook:
            hook["interval"] = counts
            notes.append(
                f"accumulative_counts={counts}: the moving average moves once in {counts} batches"
            )
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


def scale_learning_rate(runner: Runner) -> None:
    """Makes mmengine's scaling by the batch size count accumulated batches too."""
    scaling = runner.auto_scale_lr
    counts = runner.cfg.optim_wrapper.get("accumulative_counts", 1)
    if not scaling or not scaling.get("enable") or counts == 1:
        return
    base = scaling["base_batch_size"]
    # mmengine divides the images of one batch on all processes by this number.
    runner.auto_scale_lr = {**scaling, "base_batch_size": base / counts}
    images = runner.cfg.train_dataloader.batch_size
    runner.logger.info(
        f"auto_scale_lr: an update is of {runner.world_size} processes × {images} images × "
        f"{counts} accumulated batches = {runner.world_size * images * counts} images, the "
        f"learning rate belongs to {base} (÷ {counts} = {base / counts:g} a batch, below)"
    )


def _is(component: dict | None, name: str) -> bool:
    return component is not None and type_name(component) == name
