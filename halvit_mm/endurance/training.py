"""A training that goes on and on: epochs, evaluations, checkpoints, a moving average."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..engine.config_errors import load_config
from ..visualization.runs import read_run
from .watching import Watch, as_data, command, trends, trends_as_data

_HOUR = 3600


def soak_training(
    config: str | Path,
    work_dir: Path,
    *,
    minutes: float,
    interval: float = 10.0,
    warm_up: float = 5.0,
    cfg_options: dict[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains with ``tools/train.py`` for a while and watches its memory.

    Each epoch ends with an evaluation and a checkpoint, and the weights' moving average is kept.

    Args:
        config: A training by epochs.
        work_dir: Its folder.
        minutes: How long it is watched, from its first logged step on.
        interval: Seconds from one sample to the next.
        warm_up: Minutes that no trend counts.
        cfg_options: Changes the config, by dotted names.
        tell: Called with a line now and then.

    Returns:
        The samples, the trends per hour, and how much was trained and evaluated, for JSON.

    Raises:
        UserError: The training failed.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    endless = work_dir / "endless.py"
    endless_config(load_config(config, cfg_options)).dump(str(endless))
    log = work_dir / "output.txt"
    with command("train.py", endless, "--work-dir", work_dir, log=log) as process:
        while process.poll() is None and not any(work_dir.glob("*/vis_data/scalars.json")):
            time.sleep(0.1)
        watch = Watch(process.pid)
        due = time.monotonic()
        end = due + 60 * minutes
        while due < end and process.poll() is None:
            time.sleep(max(0.0, due - time.monotonic()))
            seen = watch.sample(0)
            due += interval
            if len(watch.samples) % 30 == 0:
                tell(f"{seen.seconds / 60:.1f} min: {seen.usage.anonymous / 2**20:.1f} MiB")
    run = read_run(work_dir)
    return {
        "config": str(config),
        "minutes": round(watch.samples[-1].seconds / 60, 2),
        "interval_seconds": interval,
        "warm_up_minutes": warm_up,
        "iterations": run.iterations,
        "evaluations": max((len(series.values) for series in run.val.values()), default=0),
        "per": "hour",
        "trends": trends_as_data(
            trends(watch.samples, lambda s: s.seconds / _HOUR, warm_up=warm_up / 60)
        ),
        "samples": as_data(watch.samples),
    }


def endless_config(cfg: Config) -> Config:
    """Changes a training by epochs so that it never ends and evaluates and saves at each epoch."""
    cfg.train_cfg.update(max_epochs=10**6, val_interval=1)
    # What follows a schedule would follow one of a million epochs.
    warm_up = dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100)
    cfg.param_scheduler = [warm_up]
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=2)
    cfg.default_hooks.logger.update(interval=10)
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="EMAHook", momentum=1e-3)]
    return cfg
