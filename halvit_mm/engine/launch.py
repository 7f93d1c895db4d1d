"""Training and testing of mmdet's detectors and mmpretrain's classifiers: what the tools run."""

import json
from os import replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, RUNNERS
from mmengine.runner import Runner

from ..checkpoints.reading import check_file
from ..errors import UserError
from ..files import temporary_beside
from .bad_numbers import Action, set_bad_numbers
from .config_errors import config_errors
from .determinism import set_determinism
from .interruptions import interruptions
from .last_checkpoint import last_checkpoint
from .mixed_precision import set_mixed_precision
from .preflight import check_folder, preflight
from .processes import lost_contact, set_up_processes, tear_down_processes
from .saving import remove_unfinished
from .tensorboard import set_tensorboard
from .testing import dump_metric, set_tta, set_visualization
from .training import (
    average_after_updates,
    scale_learning_rate,
    set_accumulation,
    set_checkpoint_hooks,
    set_checkpoint_interval,
    set_train_loop,
)


def train(
    cfg: Config,
    *,
    work_dir: str | None = None,
    amp: str | None = None,
    auto_scale_lr: bool = False,
    load_from: str | None = None,
    new_head: bool = False,
    resume: str | None = None,
    checkpoint_interval: int | None = None,
    tensorboard: bool = False,
    deterministic: bool = False,
    on_bad_numbers: Action | None = None,
    launcher: str = "none",
    allow_partial: bool = False,
) -> Runner:
    """Trains what a config describes.

    Args:
        cfg: An mmdet or mmpretrain config; it is changed.
        work_dir: Folder of logs and checkpoints; default: the config's, or ``work_dirs/<config>``.
        amp: Mixed precision: ``"float16"``, which needs a GPU, or ``"bfloat16"``.
        auto_scale_lr: Scales the learning rate from the config's ``base_batch_size`` to this run's:
            images in a batch × processes × accumulated batches.
        load_from: A checkpoint whose weights to start from.
        new_head: Leaves out what depends on the number of classes when starting from a checkpoint.
        resume: A checkpoint to resume from, or ``"auto"`` for the last one in ``work_dir``, if
            there is one; what to start from has no effect then.
        checkpoint_interval: Number of iterations from one checkpoint within epochs to the next.
        tensorboard: Logs for TensorBoard as well.
        deterministic: Gives the same bits each time on the same machine.
        on_bad_numbers: What to do about losses and gradients that are not finite: ``"stop"``, which
            is the default, or ``"skip"``, which leaves out the update.
        launcher: ``"none"``, or what started one process for each GPU: ``"pytorch"``, ``"slurm"``
            or ``"mpi"``.
        allow_partial: Accepts a checkpoint that does not fit the model.

    Returns:
        The runner, after training.

    Raises:
        UserError: Something in the config, the data or the options is wrong, or stops the training
            from outside.
    """
    _set_work_dir(cfg, work_dir)
    warnings, notes = _set_start(cfg, load_from, new_head, resume)
    preflight(cfg, mode="train", checkpoint=cfg.get("load_from"))
    set_mixed_precision(cfg, amp)
    if tensorboard:
        set_tensorboard(cfg)
    if auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise UserError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    if checkpoint_interval is not None:
        set_checkpoint_interval(cfg, checkpoint_interval)
    set_train_loop(cfg)
    notes += set_accumulation(cfg)
    set_checkpoint_hooks(cfg)
    set_bad_numbers(cfg, on_bad_numbers)
    if deterministic:
        notes += set_determinism(cfg)
    remove_unfinished(cfg.work_dir)
    _set_up(cfg, launcher, min_fraction=0.0 if allow_partial else None, new_head=new_head)
    with lost_contact(cfg), interruptions(cfg.work_dir), config_errors(cfg):
        runner = _build_runner(cfg)
        _check_optimizer(runner)
        scale_learning_rate(runner)
        average_after_updates(runner)
        for warning in warnings:
            runner.logger.warning(warning)
        for note in notes:
            runner.logger.info(note)
        runner.train()
    tear_down_processes(runner)
    return runner


def test(
    cfg: Config,
    checkpoint: str,
    *,
    work_dir: str | None = None,
    out: str | None = None,
    json_file: str | None = None,
    show: bool = False,
    show_dir: str | None = None,
    wait_time: float = 2.0,
    tta: bool = False,
    deterministic: bool = False,
    launcher: str = "none",
    allow_partial: bool = False,
) -> dict[str, float]:
    """Tests a checkpoint on the config's test set.

    Args:
        cfg: An mmdet or mmpretrain config; it is changed.
        checkpoint: The weights to test.
        work_dir: Folder of the log; default as in :func:`train`.
        out: File ``*.pkl`` for the predictions.
        json_file: File for the metrics.
        show: Shows each image with its predictions in a window.
        show_dir: Folder for images with their predictions.
        wait_time: How long each image is shown, in seconds.
        tta: Averages over the image and its mirror image, or as the config's ``tta_model`` and
            ``tta_pipeline`` say.
        deterministic: See :func:`train`.
        launcher: See :func:`train`.
        allow_partial: See :func:`train`.

    Returns:
        The metrics by name.

    Raises:
        UserError: See :func:`train`.
    """
    _set_work_dir(cfg, work_dir)
    for path, option in ((out, "--out"), (json_file, "--json")):
        if path is not None:
            check_folder(Path(path).parent, option)
            if Path(path).is_dir():
                raise UserError(f"{option} {path}: this is a folder; name a file")
    if out is not None and not out.endswith((".pkl", ".pickle")):
        raise UserError(f"--out {out}: predictions are pickled; name the file *.pkl")
    cfg.load_from = checkpoint
    cfg.resume = False
    for option in ("runner_type", "strategy"):  # which divide weights in training alone
        cfg.pop(option, None)
    preflight(cfg, mode="test", checkpoint=checkpoint)
    draw = show or show_dir is not None
    if tta:
        set_tta(cfg, draw=draw)
    if draw:
        set_visualization(cfg, show=show, show_dir=show_dir, wait_time=wait_time)
    notes = set_determinism(cfg) if deterministic else []
    _set_up(cfg, launcher, min_fraction=0.0 if allow_partial else None)
    with (
        lost_contact(cfg, training=False),
        interruptions(cfg.work_dir, training=False),
        config_errors(cfg),
    ):
        runner = _build_runner(cfg)
        for note in notes:
            runner.logger.info(note)
        if out is not None:
            runner.test_evaluator.metrics.append(dump_metric(cfg, out))
        metrics = runner.test()
    if json_file is not None and runner.rank == 0:
        with temporary_beside(Path(json_file)) as temporary:
            # Some metrics are arrays or tensors.
            text = json.dumps(metrics, indent=2, default=lambda value: value.tolist())
            temporary.write_text(text + "\n")
            replace(temporary, json_file)
    tear_down_processes(runner)
    return metrics


def _set_work_dir(cfg: Config, work_dir: str | None) -> None:
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(cfg.filename or "config").stem)


def _set_start(
    cfg: Config, load_from: str | None, new_head: bool, resume: str | None
) -> tuple[list[str], list[str]]:
    """Sets what is started or resumed from; returns warnings and notes about it."""
    if load_from is not None:
        if resume not in (None, "auto"):
            raise UserError(f"--load-from {load_from} and --resume {resume}: give one of the two")
        cfg.load_from = load_from
    if new_head and cfg.get("load_from") is None:
        raise UserError("--new-head needs --load-from FILE, a checkpoint to start from")
    if resume is None:
        if not cfg.get("resume"):
            return [], []
        resume = cfg.get("load_from") or "auto"  # the config's way to ask for it
    warnings = []
    if resume == "auto":
        found = last_checkpoint(cfg.work_dir, warn=warnings.append)
        if found is None:
            cfg.resume = False
            return [], [
                f"--resume: no checkpoint in {cfg.work_dir}, training starts from the beginning"
            ]
        resume = str(found)
    else:
        check_file(resume, contents=True)
    cfg.resume = True
    cfg.load_from = resume
    return warnings, [f"--resume: training continues from {resume}"]


def _set_up(
    cfg: Config, launcher: str, *, min_fraction: float | None, new_head: bool = False
) -> None:
    """What training and testing have in common."""
    hooks = cfg.get("custom_hooks") or []
    types = [hook.get("type") for hook in hooks]
    for needed in ("CheckpointGuardHook", "EvaluationProgressHook"):
        if needed not in types:
            hooks.append(dict(type=needed))
    for hook in hooks:
        if hook["type"] == "CheckpointGuardHook":
            if min_fraction is not None:
                hook["min_fraction"] = min_fraction
            if new_head and not cfg.get("resume"):
                hook["new_head"] = True
    cfg.custom_hooks = hooks
    if cfg.get("default_scope") == "mmpretrain":
        _set_loader_defaults(cfg)
    set_up_processes(cfg, launcher)


def _set_loader_defaults(cfg: Config) -> None:
    """mmpretrain's configs leave these to its tools."""
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if (loader := cfg.get(name)) is not None:
            loader.setdefault("collate_fn", dict(type="default_collate"))
            loader.setdefault("pin_memory", torch.cuda.is_available())
            loader.setdefault("persistent_workers", loader.get("num_workers", 0) > 0)


def _build_runner(cfg: Config) -> Runner:
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


def _check_optimizer(runner: Runner) -> None:
    """mmengine fails on an unknown optimiser without saying its name."""
    name = runner.cfg.optim_wrapper.get("optimizer", {}).get("type")
    with OPTIMIZERS.switch_scope_and_registry(None) as registry:
        if isinstance(name, str) and registry.get(name) is None:
            raise UserError(f"optim_wrapper.optimizer.type={name} is unknown: check its spelling")
