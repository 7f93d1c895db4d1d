"""One training in several precisions, with the same seed and data, and its norms over time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from ..engine.config_errors import load_config
from ..visualization.curves import Panel, plot
from ..visualization.runs import Run, read_run
from .watching import command

DTYPES = ("float32", "bfloat16", "float16")

#: What is drawn.
PANELS = (
    Panel(label="training loss", curves={"": ("loss",)}, smooth=True),
    Panel(label="norm of all gradients", curves={"": ("gradient_norm",)}, smooth=True),
    Panel(
        label="norm of the layers' gradients", curves={"": ("layers_gradient_norm",)}, smooth=True
    ),
    Panel(label="norm of the layers' weights", curves={"": ("layers_weight_norm",)}),
)
_KEYS = ("loss", "gradient_norm", "layers_gradient_norm", "weight_norm", "layers_weight_norm")


def measure_precisions(
    configs: Sequence[str | Path],
    work_dir: Path,
    *,
    dtypes: Sequence[str],
    steps: int,
    interval: int = 10,
    cfg_options: dict[str, Any] | None = None,
    tell: Callable[[str], None] = print,
) -> list[tuple[str, str, Run]]:
    """Trains each config in each precision by ``tools/train.py``, one after the other.

    Args:
        configs: Trainings by iterations.
        work_dir: A folder, in which each training has its own.
        dtypes: Of :data:`DTYPES`; ``"float32"`` is training without mixed precision.
        steps: Number of iterations.
        interval: Number of iterations from one measurement to the next.
        cfg_options: Changes the configs, by dotted names.
        tell: Called with a line before each training.

    Returns:
        Config, precision and what was logged, of each training.

    Raises:
        UserError: A training failed; bad numbers end it, too.
    """
    found = []
    for config in configs:
        for dtype in dtypes:
            name = f"{Path(config).stem} {dtype}"
            tell(name)
            folder = work_dir / name.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            observed = folder / "observed.py"
            observe(load_config(config, cfg_options), steps, interval).dump(str(observed))
            amp = () if dtype == "float32" else ("--amp", dtype)
            log = folder / "output.txt"
            with command("train.py", observed, "--work-dir", folder, *amp, log=log) as process:
                process.wait()
            found.append((str(config), dtype, replace(read_run(folder), name=name)))
    return found


def observe(cfg: Config, steps: int, interval: int) -> Config:
    """Changes a training by iterations: so many of them, and norms in the log."""
    cfg.train_cfg.update(max_iters=steps, val_interval=steps)
    for schedule in cfg.param_scheduler:
        if "T_max" in schedule:
            schedule.T_max = steps
    cfg.default_hooks.logger.update(interval=interval)
    norms = dict(type="NormsHook", interval=interval)
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), norms]
    return cfg


def as_data(found: Sequence[tuple[str, str, Run]]) -> list[dict[str, Any]]:
    """The curves and what they come to, for JSON."""
    return [_as_data(config, dtype, run) for config, dtype, run in found]


def _as_data(config: str, dtype: str, run: Run) -> dict[str, Any]:
    curves = {key: run.train[key] for key in _KEYS}
    late = {key: series.values[len(series.values) // 2 :] for key, series in curves.items()}
    return {
        "config": config,
        "dtype": dtype,
        "steps": run.iterations,
        "final_loss": _digits(run.final_loss),
        "metrics": {key: _digits(series.values[-1]) for key, series in run.val.items()},
        "seconds_per_iteration": _digits(run.seconds_per_iteration),
        "second_half": {
            key: {"median": _digits(np.median(values)), "max": _digits(values.max())}
            for key, values in late.items()
        },
        "iterations": curves["gradient_norm"].iterations.tolist(),
        "curves": {key: [_digits(value) for value in s.values] for key, s in curves.items()},
    }


def draw(found: Sequence[tuple[str, str, Run]], out: Path) -> None:
    """Draws the curves of all trainings into one PNG.

    Raises:
        UserError: ``out`` cannot be written.
    """
    plot([run for _, _, run in found], out, x="iterations", panels=PANELS)


def table(found: Sequence[tuple[str, str, Run]]) -> str:
    """A line for each training, in Markdown."""
    lines = [
        "| training | precision | steps | final loss | top-1 (%) | gradient norm, median / max "
        "| weight norm of the layers, end | s / step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in as_data(found):
        half = one["second_half"]["gradient_norm"]
        top = one["metrics"].get("accuracy/top1", "–")
        lines.append(
            f"| {Path(one['config']).stem} | {one['dtype']} | {one['steps']} | {one['final_loss']} "
            f"| {top} | {half['median']} / {half['max']} "
            f"| {one['curves']['layers_weight_norm'][-1]} | {one['seconds_per_iteration']} |"
        )
    return "\n".join(lines)


def _digits(value: float) -> float:
    return float(f"{value:.5g}")
