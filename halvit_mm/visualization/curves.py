"""How trainings went, as one picture and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .colours import line_colour
from .files import png_file
from .runs import Run, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One of the picture's diagrams.

    Attributes:
        label: Quantity and unit.
        curves: What to draw of each run: names for the legend and the log's keys, of which the
            first that there is counts. The first curve is drawn solid, the second dashed.
        smooth: Draw a running mean, with what was logged faint behind.
        marked: Mark each point.
        scale: Factor from the log's unit.
    """

    label: str
    curves: dict[str, tuple[str, ...]]
    smooth: bool = False
    marked: bool = False
    scale: float = 1.0


PANELS = (
    Panel(label="training loss", curves={"": ("loss",)}, smooth=True),
    Panel(
        label="box AP (0–1)", curves={"AP": ("bbox_mAP",), "AP50": ("bbox_mAP_50",)}, marked=True
    ),
    Panel(
        label="mask AP (0–1)", curves={"AP": ("segm_mAP",), "AP50": ("segm_mAP_50",)}, marked=True
    ),
    Panel(label="accuracy (%)", curves={"top-1": ("top1",), "top-5": ("top5",)}, marked=True),
    # `lr` is that of the first group of parameters, which decay by layers makes the lowest.
    Panel(label="learning rate", curves={"": ("base_lr", "lr")}),
    Panel(
        label="time per iteration (s)",
        curves={"in all": ("time",), "waiting for data": ("data_time",)},
        smooth=True,
    ),
    Panel(label="peak GPU memory (GiB)", curves={"": ("memory",)}, scale=1 / 1024),
)

#: Columns of the table for metrics of validation, all of them better when higher.
METRICS = {
    "bbox_mAP": "box AP",
    "bbox_mAP_50": "box AP50",
    "segm_mAP": "mask AP",
    "segm_mAP_50": "mask AP50",
    "top1": "top-1 (%)",
    "top5": "top-5 (%)",
}


def plot(runs: Sequence[Run], out: str | Path) -> None:
    """Draws the curves of one or several runs into one PNG, 1500 pixels wide.

    Each of :data:`PANELS` appears where at least one run has its data. The x axis counts epochs if
    all runs do, and iterations otherwise.

    Raises:
        UserError: ``out`` cannot be written.
    """
    with png_file(out) as file:
        # A figure by itself: pyplot would keep it and might open windows.
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        panels = [
            panel
            for panel in PANELS
            if any(run.find(*keys) for run in runs for keys in panel.curves.values())
        ]
        by_epoch = all(run.iterations_per_epoch for run in runs)
        rows = -(-len(panels) // 2)
        with rc_context(_STYLE):
            figure = Figure(figsize=(10, 0.6 + 2.8 * rows), dpi=150, layout="constrained")
            grid = figure.add_gridspec(rows, 2)
            for i, panel in enumerate(panels):
                # The last of an odd number gets the whole row.
                alone = i == len(panels) - 1 and i % 2 == 0
                axes = figure.add_subplot(grid[i // 2, :] if alone else grid[i // 2, i % 2])
                _draw_panel(axes, panel, runs, by_epoch=by_epoch)
            names = [
                Line2D([], [], color=_rgb(number), linewidth=3, label=run.name)
                for number, run in enumerate(runs)
            ]
            figure.legend(handles=names, loc="outside upper center", ncols=min(len(runs), 4))
            figure.savefig(file, format="png")


def table(runs: Sequence[Run]) -> str:
    """A Markdown table: a row for each run, and the columns that at least one run can fill."""
    columns = {
        "run": [run.name for run in runs],
        "epochs": [_number(run.epochs, "{:.4g}") for run in runs],
        "iterations": [str(run.iterations) for run in runs],
        "final loss": [_number(run.final_loss, "{:.3f}") for run in runs],
    }
    for key, title in METRICS.items():
        columns[f"{title}, last / best"] = [_last_and_best(run.find(key)) for run in runs]
    columns |= {
        "s / iteration": [_number(run.seconds_per_iteration, "{:.3g}") for run in runs],
        "training time": [_duration(run.training_seconds) for run in runs],
        "peak memory": [_number(run.peak_memory, "{:.0f} MiB") for run in runs],
    }
    filled = {title: cells for title, cells in columns.items() if set(cells) != {_NOTHING}}
    widths = [max(len(title), *map(len, cells)) for title, cells in filled.items()]
    rows = [
        tuple(filled),
        tuple("-" * width for width in widths),
        *zip(*filled.values(), strict=True),
    ]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


_STYLE = {
    "font.size": 10.5,
    "axes.edgecolor": "0.5",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.12,
    "figure.constrained_layout.w_pad": 0.15,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "xtick.color": "0.3",
    "ytick.color": "0.3",
}
_DASHES = ("-", (0, (3.5, 2)))


def _draw_panel(axes: "Axes", panel: Panel, runs: Sequence[Run], *, by_epoch: bool) -> None:
    from matplotlib.lines import Line2D

    drawn = {}
    for number, run in enumerate(runs):
        unit = run.iterations_per_epoch if by_epoch else 1
        for (name, keys), dashes in zip(panel.curves.items(), _DASHES, strict=False):
            if (series := run.find(*keys)) is None:
                continue
            drawn[name] = dashes
            x, y = series.iterations / unit, panel.scale * series.values
            style = dict(color=_rgb(number), linestyle=dashes)
            if panel.smooth and (mean := _running_mean(y)) is not y:
                axes.plot(x, y, color=_rgb(number), alpha=0.25, linewidth=1)
                y = mean
            axes.plot(x, y, marker="o" if panel.marked else None, markersize=4, **style)
    axes.set_xlabel("epoch" if by_epoch else "iteration")
    axes.set_ylabel(panel.label)
    axes.update_datalim([(0, 0)])
    axes.autoscale_view()
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=None if axes.dataLim.ymin < 0 else 0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    if len(panel.curves) > 1:
        axes.legend(
            handles=[
                Line2D([], [], color="0.3", linestyle=dashes, label=name)
                for name, dashes in drawn.items()
            ]
        )


def _rgb(number: int) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in line_colour(number))


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window of a twentieth of the curve; short curves stay as they are."""
    half = len(values) // 40
    if not half:
        return values
    ones = np.ones(2 * half + 1)
    counts = np.convolve(np.ones_like(values), ones, mode="same")
    return np.convolve(values, ones, mode="same") / counts


_NOTHING = "–"


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else form.format(value)


def _last_and_best(series: Series | None) -> str:
    if series is None:
        return _NOTHING
    return f"{series.values[-1]:.4g} / {series.values.max():.4g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
