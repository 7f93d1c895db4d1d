"""Trains a model of the zoo, makes a file to hand out, and notes what that file reaches."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..analysis.weightless import build_without_weights
from ..benchmark.machine import describe
from ..checkpoints.publish import publish
from ..checkpoints.reading import read_meta
from ..engine.config_errors import load_config
from ..engine.last_checkpoint import last_checkpoint
from ..engine.launch import test, train
from ..engine.preflight import preflight
from ..errors import UserError
from ..files import whole_file
from .entries import Entry

#: What a file of the zoo may have, so that a release can carry it.
MAX_BYTES = 25_000_000


def check(entries: Sequence[Entry], *, root: Path, work_dir: Path) -> None:
    """Looks for all that is missing for making models, before the first one takes an hour.

    Raises:
        UserError: A data set is missing or broken, or a work directory is of another training.
    """
    for entry in entries:
        cfg = load_config(root / entry.config)
        folder = work_dir / entry.name
        cfg.work_dir = str(folder)
        _check_same_training(cfg, folder)
        try:
            preflight(cfg, mode="train")
        except UserError as error:
            raise UserError(f"{entry.name}: {error}") from error


def make(
    entry: Entry,
    *,
    root: Path,
    work_dir: Path,
    results: Path,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Makes one model and its log; what is there already is not made again.

    A training goes on where it stopped. The weights are published in half precision, and tested
    both so and as they were trained.

    Args:
        entry: The model.
        root: The repository's root.
        work_dir: Folder of the zoo's trainings; published files go to ``published`` in it.
        results: Folder of the zoo's logs; this one is ``NAME.json``.
        tell: Is told what is done.

    Returns:
        The log: what :func:`shown` shows, and all about the file, the training and the machine.

    Raises:
        UserError: The data are missing, the file is larger than :data:`MAX_BYTES`, or the training
            is stopped from outside.
    """
    config, folder = root / entry.config, work_dir / entry.name
    checkpoint = _finished(load_config(config), folder)
    if checkpoint is None:
        tell(f"{entry.name}: training in {folder}")
        train(load_config(config), work_dir=str(folder), resume="auto")
        checkpoint = last_checkpoint(folder)
    published = publish(checkpoint, work_dir / "published" / f"{entry.name}.pth", fp16=True)
    for former in set(published.parent.glob(f"{entry.name}-*.pth")) - {published}:
        former.unlink()
    content = published.read_bytes()
    if len(content) > MAX_BYTES:
        raise UserError(f"{published}: {len(content):,} bytes are too many for a release")
    digest, log = hashlib.sha256(content).hexdigest(), results / f"{entry.name}.json"
    if log.exists() and json.loads(log.read_text())["sha256"] == digest:
        tell(f"{entry.name}: {log} is about this very file")
        return json.loads(log.read_text())
    metrics = {}
    for precision, file in (("fp16", published), ("fp32", checkpoint)):
        tell(f"{entry.name}: testing {file}")
        found = test(load_config(config), str(file), work_dir=str(work_dir / f"{entry.name}_test"))
        metrics[precision] = {name: float(value) for name, value in found.items()}
    facts = {
        **_training(entry, load_config(config), read_meta(checkpoint)),
        "file": published.name,
        "sha256": digest,
        "bytes": len(content),
        "metrics": metrics,
        "machine": describe(),
    }
    with whole_file(log) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n")
    tell(f"{entry.name}: {shown(entry, facts)}, in {published}")
    return facts


def shown(entry: Entry, facts: dict[str, Any], precision: str = "fp16") -> str:
    """What a model reaches, in the words of papers: ``box AP 0.483, mask AP 0.504``."""
    found = facts["metrics"][precision]
    return ", ".join(
        f"{metric} {found[name]:.{2 if 'Accuracy' in metric else 3}f}"
        for _, metric, name in entry.metrics
    )


def _finished(cfg: Config, folder: Path) -> Path | None:
    """The last checkpoint of a training that has all of its epochs."""
    _check_same_training(cfg, folder)
    checkpoint = last_checkpoint(folder) if folder.is_dir() else None
    if checkpoint is None or read_meta(checkpoint)["epoch"] < cfg.train_cfg.max_epochs:
        return None
    return checkpoint


def _check_same_training(cfg: Config, folder: Path) -> None:
    """Refuses a work directory whose training had another model, length or seed."""
    trained_with = folder / Path(cfg.filename).name  # mmengine writes the config there
    if not trained_with.is_file():
        return
    then = load_config(trained_with)
    for key in ("model", "param_scheduler", "randomness"):
        if then.get(key) != cfg.get(key):
            raise UserError(
                f"{folder}: what was trained there had another {key} than {cfg.filename} has now; "
                "remove that folder"
            )


def _training(entry: Entry, cfg: Config, meta: dict[str, Any]) -> dict[str, Any]:
    """What was trained, and how."""
    model = build_without_weights(cfg)
    return {
        "config": entry.config,
        "command": f"python tools/train.py {entry.config}",
        "dataset": entry.dataset,
        "seed": cfg.randomness.seed,
        "epochs": meta["epoch"],
        "trained": _date(meta["time"]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "backbone_parameters": sum(p.numel() for p in model.backbone.parameters()),
    }


def _date(time: str) -> str:
    """A time of mmengine's, ``20261130_151218``, as others write it."""
    if re.fullmatch(r"\d{8}_\d{6}", time):
        return datetime.strptime(time, "%Y%m%d_%H%M%S").isoformat()
    return time
