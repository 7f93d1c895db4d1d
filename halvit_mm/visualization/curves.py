"""How trainings went, as one picture and as a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import UserError
from .colours import line_colour
from .files import png_file
from .runs import Run, group_seeds

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
    Panel(label="throughput (images/s)", curves={"": ("images_per_second",)}, smooth=True),
    Panel(label="peak GPU memory (GiB)", curves={"": ("memory",)}, scale=1 / 1024),
)

#: Columns of the table for metrics of validation, all of them better when higher, and their form.
METRICS = {
    "bbox_mAP": ("box AP", "{:.3f}"),
    "bbox_mAP_50": ("box AP50", "{:.3f}"),
    "segm_mAP": ("mask AP", "{:.3f}"),
    "segm_mAP_50": ("mask AP50", "{:.3f}"),
    "top1": ("top-1 (%)", "{:.2f}"),
    "top5": ("top-5 (%)", "{:.2f}"),
}

#: What the x axis can count; hours are those spent in iterations of training.
Axis = Literal["epochs", "iterations", "hours"]


def plot(
    runs: Sequence[Run],
    out: str | Path,
    *,
    x: Axis | None = None,
    by_seed: bool = False,
    panels: Sequence[Panel] = PANELS,
) -> None:
    """Draws the curves of one or several runs into one PNG, 1500 pixels wide.

    Each of ``panels`` appears where at least one run has its data.

    Args:
        runs: The runs.
        out: PNG to write.
        x: What the x axis counts; by default epochs if all runs do, and iterations otherwise.
        by_seed: Runs that differ only in their seed have one colour and one name.
        panels: The diagrams.

    Raises:
        UserError: ``out`` cannot be written, or a run does not tell what ``x`` counts.
    """
    with png_file(out) as file:
        x = _choose_axis(runs, x)
        # A figure by itself: pyplot would keep it and might open windows.
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        panels = [
            panel
            for panel in panels
            if any(run.find(*keys) for run in runs for keys in panel.curves.values())
        ]
        groups = _group(runs, by_seed)
        rows = -(-len(panels) // 2)
        with rc_context(_STYLE):
            figure = Figure(figsize=(10, 0.6 + 2.8 * rows), dpi=150, layout="constrained")
            grid = figure.add_gridspec(rows, 2)
            for i, panel in enumerate(panels):
                # The last of an odd number gets the whole row.
                alone = i == len(panels) - 1 and i % 2 == 0
                axes = figure.add_subplot(grid[i // 2, :] if alone else grid[i // 2, i % 2])
                _draw_panel(axes, panel, groups, x)
            names = [
                Line2D([], [], color=_rgb(number), linewidth=3, label=name)
                for number, (name, _) in enumerate(groups)
            ]
            widest = 0.75 + 0.085 * max(len(name) for name, _ in groups)  # of a name, in inches
            columns = max(1, min(len(groups), 4, int(figure.get_figwidth() / widest)))
            figure.legend(handles=names, loc="outside upper center", ncols=columns)
            figure.savefig(file, format="png")


def table(runs: Sequence[Run], *, by_seed: bool = False) -> str:
    """A Markdown table with the columns that at least one run can fill.

    Args:
        runs: The runs.
        by_seed: One row for all runs that differ only in their seed, instead of one each. Where
            their results differ it gives the mean ± half of the range.
    """
    groups = _group(runs, by_seed)

    def column(quantity: str, describe: Callable[[list], str]) -> list[str]:
        return [describe([getattr(run, quantity) for run in group]) for _, group in groups]

    columns = {"run": [name for name, _ in groups]}
    if by_seed:
        columns["seeds"] = [str(len(group)) for _, group in groups]
    columns["epochs"] = column("epochs", partial(_range, form="{:.4g}"))
    columns["iterations"] = column("iterations", partial(_range, form="{}"))
    columns["final loss"] = column("final_loss", partial(_mean_and_spread, form="{:.3f}"))
    for key, (title, form) in METRICS.items():
        columns[f"{title}, last / best"] = [_last_and_best(group, key, form) for _, group in groups]
    columns["s / iteration"] = column("seconds_per_iteration", partial(_mean, form="{:.3g}"))
    columns["images / s"] = column("images_per_second", partial(_mean, form="{:.1f}"))
    columns["training time"] = column("training_seconds", _duration)
    columns["peak memory"] = column("peak_memory", partial(_mean, form="{:.0f} MiB"))
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
_AXIS_LABELS: dict[Axis, str] = {
    "epochs": "epoch",
    "iterations": "iteration",
    "hours": "hours of training",
}
_Groups = Sequence[tuple[str, Sequence[Run]]]


def _group(runs: Sequence[Run], by_seed: bool) -> _Groups:
    """The runs by the name under which they appear."""
    return group_seeds(runs) if by_seed else [(run.name, [run]) for run in runs]


def _choose_axis(runs: Sequence[Run], x: Axis | None) -> Axis:
    if x is None:
        return "epochs" if all(run.iterations_per_epoch for run in runs) else "iterations"
    for run in runs:
        if x == "epochs" and run.iterations_per_epoch is None:
            raise UserError(
                f"--x epochs: {run.name} was trained by iterations; take --x iterations or hours"
            )
        if x == "hours" and run.training_seconds is None:
            raise UserError(
                f"--x hours: the log of {run.name} has no times; take --x epochs or iterations"
            )
    return x


def _positions(run: Run, iterations: np.ndarray, x: Axis) -> np.ndarray:
    """Where so many iterations lie on the x axis."""
    if x == "epochs":
        return iterations / run.iterations_per_epoch
    return run.seconds_at(iterations) / 3600 if x == "hours" else iterations


def _draw_panel(axes: "Axes", panel: Panel, groups: _Groups, x_axis: Axis) -> None:
    from matplotlib.lines import Line2D

    drawn = {}
    numbered = [(number, run) for number, (_, group) in enumerate(groups) for run in group]
    for number, run in numbered:
        for (name, keys), dashes in zip(panel.curves.items(), _DASHES, strict=False):
            if (series := run.find(*keys)) is None:
                continue
            drawn[name] = dashes
            x, y = _positions(run, series.iterations, x_axis), panel.scale * series.values
            style = dict(color=_rgb(number), linestyle=dashes)
            if panel.smooth and (mean := _running_mean(y)) is not y:
                axes.plot(x, y, color=_rgb(number), alpha=0.25, linewidth=1)
                y = mean
            axes.plot(x, y, marker="o" if panel.marked else None, markersize=4, **style)
    axes.set_xlabel(_AXIS_LABELS[x_axis])
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


def _mean(values: list[float | None], form: str) -> str:
    """The mean; nothing where one of the values is missing, since it would be that of others."""
    return _NOTHING if None in values else form.format(np.mean(values))


def _mean_and_spread(values: list[float | None], form: str) -> str:
    """The mean, and behind ± half of the range if there are several values."""
    mean = _mean(values, form)
    if len(values) == 1 or mean == _NOTHING:
        return mean
    return f"{mean} ± {form.format(np.ptp(values) / 2)}"


def _range(values: list[float | None], form: str) -> str:
    """The value that all have in common, or the smallest and the largest."""
    if None in values:
        return _NOTHING
    return "–".join(dict.fromkeys(form.format(end) for end in (min(values), max(values))))


def _last_and_best(group: Sequence[Run], key: str, form: str) -> str:
    series = [run.find(key) for run in group]
    if None in series:
        return _NOTHING
    last = _mean_and_spread([one.values[-1] for one in series], form)
    best = _mean_and_spread([one.values.max() for one in series], form)
    return f"{last} / {best}"


def _duration(values: list[float | None]) -> str:
    """The mean as hours, minutes and seconds."""
    if None in values:
        return _NOTHING
    minutes, seconds = divmod(round(np.mean(values)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
