"""Loading a config's model with the weights of a checkpoint that fits it whole."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..checkpoints.class_layers import class_layers, other_classes
from ..checkpoints.loading import compare
from ..checkpoints.reading import StateDict, check_file, find_weights, read_checkpoint
from ..datasets.check import innermost_datasets
from ..datasets.check_classes import configured_classes, count_classes
from ..engine.config_errors import config_errors, load_config
from ..errors import UserError
from .pipeline import build_pipeline

Task = Literal["detection", "classification"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model that is ready for images.

    Attributes:
        model: In evaluation mode, on its device.
        cfg: Its config.
        task: What it does.
        classes: Names of its classes, in the order of their numbers; the numbers themselves where
            neither the checkpoint nor the config names them.
        pipeline: The transforms of its test set, from decoded images on; see ``prepare``.
    """

    model: nn.Module
    cfg: Config
    task: Task
    classes: tuple[str, ...]
    pipeline: Compose


def load_model(
    config: str | Path | Config,
    checkpoint: str | Path | None,
    *,
    device: str = "cpu",
    cfg_options: dict[str, Any] | None = None,
    untrained: bool = False,
) -> LoadedModel:
    """Builds a model and loads its weights.

    All weights must come from the checkpoint, and all of the checkpoint's must have a place:
    mmdet's and mmpretrain's own loaders warn and go on where a part stays random.

    Args:
        config: A config of a detector of mmdet or a classifier of mmpretrain.
        checkpoint: The weights; None only with ``untrained``.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` and so on.
        cfg_options: Changes the config, by dotted names; only where ``config`` is a path.
        untrained: Allows no checkpoint, which gives the weights that training starts from.

    Raises:
        UserError: The config is missing or wrong; the checkpoint is missing, damaged or of another
            model; or there is no such device.
    """
    where = find_device(device)
    cfg = config if isinstance(config, Config) else load_config(config, cfg_options)
    if checkpoint is not None:
        check_file(checkpoint)
    elif not untrained:
        raise UserError("no checkpoint is given, whose weights the model needs; name one")
    if not isinstance(cfg.get("model"), dict) or "type" not in cfg.model:
        raise UserError(
            f"the config {cfg.filename} has no model; name that of a detector or classifier"
        )
    model, task = _build(cfg)
    # Whatever the config lacks is found before time goes into reading weights.
    pipeline = build_pipeline(cfg, task=task)
    meta: dict[str, Any] = {}
    if checkpoint is None:
        with config_errors(cfg), _quietly():
            model.init_weights()
    else:
        content = read_checkpoint(checkpoint)
        weights = find_weights(content, checkpoint)
        _check_fit(cfg, model, weights, checkpoint)
        model.load_state_dict(weights, strict=False)  # what a model itself leaves out is no fault
        meta = content.get("meta") or {}
    return LoadedModel(
        model=model.to(where).eval(),
        cfg=cfg,
        task=task,
        classes=_classes(cfg, meta, task),
        pipeline=pipeline,
    )


def find_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        UserError: There is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: there is no such device; give cpu, cuda or cuda:0")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            has = "no GPU that PyTorch can use" if not count else f"GPUs 0 to {count - 1} only"
            raise UserError(f"--device {name}: this machine has {has}; give --device cpu")
    return device


def _build(cfg: Config) -> tuple[nn.Module, Task]:
    scope = cfg.get("default_scope")
    if scope not in ("mmdet", "mmpretrain"):
        raise UserError(
            f"the config {cfg.filename} has default_scope={scope}; only detectors of mmdet and "
            "classifiers of mmpretrain can be run"
        )
    with config_errors(cfg), DefaultScope.overwrite_default_scope(scope):
        described = cfg.model.copy()
        if cfg.get("data_preprocessor") is not None:  # as the runner hands it on
            described.setdefault("data_preprocessor", cfg.data_preprocessor)
        model = MODELS.build(described)
    if scope == "mmdet":
        from mmdet.models import BaseDetector

        base, task = BaseDetector, "detection"
    else:
        from mmpretrain.models import BaseClassifier

        base, task = BaseClassifier, "classification"
    if not isinstance(model, base):
        raise UserError(
            f"model.type={cfg.model.type} of {cfg.filename} is neither a detector nor a "
            "classifier; name the config of one"
        )
    return model, task


@contextmanager
def _quietly() -> Iterator[None]:
    """Without mmengine's page on how each tensor was initialised; warnings still come through."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


def _check_fit(cfg: Config, model: nn.Module, weights: StateDict, path: str | Path) -> None:
    report = compare(model, weights)
    if report.complete:
        return
    differing = other_classes(class_layers(cfg), weights) if report.mismatched else {}
    if differing:
        places = " and ".join(f"{option}={own}" for option, (own, _) in differing.items())
        counts = " and ".join(map(str, sorted({given for _, given in differing.values()})))
        raise UserError(
            f"{path}: the checkpoint is for {counts} classes, but {cfg.filename} has {places}; "
            "give the config that it was trained with"
        )
    raise UserError(
        f"{path}: the checkpoint is of another model than {cfg.filename} describes; give the two "
        f"that belong together\n  {report.summary()}\n{report.details()}"
    )


def _classes(cfg: Config, meta: dict[str, Any], task: Task) -> tuple[str, ...]:
    """Names from the checkpoint, else of the config's test set, else numbers."""
    counts = set(count_classes(cfg.model).values())
    dataset_meta = meta.get("dataset_meta") or {}
    known = dataset_meta.get("classes") or dataset_meta.get("CLASSES") or meta.get("CLASSES")
    if known is None:
        known = _configured(cfg, "mmdet" if task == "detection" else "mmpretrain")
    if known is not None and (not counts or counts == {len(known)}):
        return tuple(map(str, known))
    return tuple(map(str, range(max(counts, default=0))))


def _configured(cfg: Config, package: str) -> list[str] | None:
    for loader in ("test_dataloader", "val_dataloader"):
        if dataset := (cfg.get(loader) or {}).get("dataset"):
            inner, option = next(innermost_datasets(dataset, f"{loader}.dataset"))
            return configured_classes(inner, option=option, package=package)
    return None
