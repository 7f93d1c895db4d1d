"""Cheap checks before long work."""

from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config

from ..checkpoints.reading import check_file
from ..errors import UserError
from ..files import temporary_beside

_NEEDED = {
    "train": ("model", "train_dataloader", "train_cfg", "optim_wrapper"),
    "test": ("model", "test_dataloader", "test_cfg", "test_evaluator"),
}
_LOADERS = {
    "train": ("train_dataloader", "val_dataloader"),
    "test": ("test_dataloader",),
}


def preflight(
    cfg: Config, *, mode: Literal["train", "test"], checkpoint: str | Path | None = None
) -> None:
    """Looks for what would stop a run after minutes or hours, within seconds.

    Args:
        cfg: The whole config, with its ``work_dir``.
        mode: Which data sets to look at.
        checkpoint: The checkpoint that the run starts from, if any.

    Raises:
        UserError: The config lacks a part, the work directory cannot be written, a checkpoint is
            missing or cut off, or a data set is missing, empty or broken, or contradicts the model
            or another one.
    """
    from ..datasets.check import check_classes_agree, check_dataset, count_classes

    for name in _NEEDED[mode]:
        if cfg.get(name) is None:
            raise UserError(f"the config {cfg.filename} has no {name}: a {mode} run needs it")
    if checkpoint is not None and "://" not in str(checkpoint):
        check_file(checkpoint)
    if mode == "train":
        _check_init_cfgs(cfg.model.to_dict(), "model")
        teacher = (cfg.model.get("teacher") or {}).get("config")  # of a DistilledClassifier
        if isinstance(teacher, str) and "::" not in teacher and not Path(teacher).is_file():
            raise UserError(f"model.teacher.config={teacher}: there is no such config")
    check_folder(cfg.work_dir, "--work-dir")
    classes = count_classes(cfg.model)
    if (cfg.model.get("train_cfg") or {}).get("augments"):
        # The labels of mixed images are vectors, whose length is set apart from the head's.
        classes |= count_classes(cfg.get("data_preprocessor"), "data_preprocessor")
    loaders = [loader for loader in _LOADERS[mode] if cfg.get(loader) is not None]
    datasets = {f"{loader}.dataset": cfg[loader].dataset for loader in loaders}
    for option, dataset in datasets.items():
        check_dataset(dataset, option=option, num_classes=classes)
    check_classes_agree(datasets)


def check_folder(folder: str | Path, option: str) -> None:
    """Makes a folder that is to be written to, and tries to write there.

    Raises:
        UserError: It cannot be written.
    """
    try:
        with temporary_beside(Path(folder) / "probe"):
            pass
    except UserError as error:
        reason = getattr(error.__cause__, "strerror", error)
        raise UserError(
            f"{option} {folder}: cannot write there ({reason}); choose another folder"
        ) from error


def _check_init_cfgs(node: Any, option: str) -> None:
    """Checks the checkpoint of each ``init_cfg`` that loads one, and of a teacher."""
    if isinstance(node, dict):
        checkpoint = node.get("checkpoint")
        loads = node.get("type") in ("Pretrained", "PretrainedBackbone")
        loads = loads or option == "model.teacher"
        if loads and checkpoint is not None and "://" not in checkpoint:
            try:
                check_file(checkpoint)
            except UserError as error:
                raise UserError(f"{option}.checkpoint={error}") from error
        for key, value in node.items():
            _check_init_cfgs(value, f"{option}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            _check_init_cfgs(value, f"{option}.{index}")
