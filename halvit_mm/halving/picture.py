"""The report of a halving as one picture."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..visualization.colours import line_colour
from ..visualization.files import png_file
from .report import Report, duration, megabytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DENSE, _HALF, _START = 0, 1, 5  # of the colours for lines: blue, orange, light blue
_LEAST_HEIGHT = 4.4  # inches
_ROW = 0.24  # inches of height for a unit
_STYLE = {
    "font.size": 9.5,
    "axes.edgecolor": "0.5",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.15,
    "grid.color": "0.9",
    "legend.frameon": False,
    "xtick.color": "0.3",
    "ytick.left": False,
}


def draw_report(report: Report, path: str | Path) -> None:
    """Draws the error of each unit at first and at the end, and what the whole model became.

    Args:
        report: The report; errors of 0 are drawn at the left end of their axis.
        path: PNG to write, 1500 pixels wide.

    Raises:
        UserError: ``path`` cannot be written.
    """
    with png_file(path) as file:
        # A figure by itself: pyplot would keep it and might open windows.
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        with rc_context(_STYLE):
            height = max(_LEAST_HEIGHT, 1.6 + _ROW * len(report.units))
            figure = Figure(figsize=(10, height), dpi=150, layout="constrained")
            figure.suptitle(_title(report), fontsize=11)
            # The bars keep their height, however many units there are.
            spare = height - _LEAST_HEIGHT
            rows = [0.7, 0.7, 0.7, *([spare] if spare > 0.5 else [])]
            grid = figure.add_gridspec(len(rows), 2, width_ratios=(3, 2), height_ratios=rows)
            _draw_errors(figure.add_subplot(grid[:, 0]), report)
            numbers = report.parameters_dense, report.parameters_half
            _draw_pair(
                figure.add_subplot(grid[0, 1]), "parameters", numbers, [f"{n:,}" for n in numbers]
            )
            numbers = report.bytes_dense, report.bytes_half
            _draw_pair(figure.add_subplot(grid[1, 1]), "bytes", numbers, map(megabytes, numbers))
            _draw_agreement(figure.add_subplot(grid[2, 1]), report)
            figure.savefig(file, format="png")


def _title(report: Report) -> str:
    where = " → ".join(Path(name).name for name in (report.source, report.checkpoint))
    how = f"{report.method}, {report.images:,} images" if report.images else report.method
    return f"{where}: {how}, {duration(report.seconds)}"


def _draw_errors(axes: "Axes", report: Report) -> None:
    errors = [error for unit in report.units for error in (unit.error_start, unit.error)]
    positive = [error for error in errors if error > 0] or [1.0]
    # Logarithms have no 0: it stands a decade before the least error.
    least = min(positive) / (1 if min(errors) > 0 else 10)
    for row, unit in enumerate(report.units):
        start, end = (max(error, least) for error in (unit.error_start, unit.error))
        axes.plot([start, end], [row, row], color="0.75", linewidth=1.6, zorder=1)
        axes.plot(start, row, "o", color=_rgb(_START), markersize=6, zorder=2)
        axes.plot(end, row, "o", color=_rgb(_HALF), markersize=6, zorder=3)
        axes.annotate(
            f"{unit.error:.2g}", (1, row), (4, 0), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", va="center", color="0.3", fontsize=8.5,
        )  # fmt: skip
    axes.set_xscale("log")
    # From one power of ten to another, which alone are labelled.
    low, high = math.floor(math.log10(least / 1.3)), math.ceil(math.log10(1.3 * max(positive)))
    axes.set_xlim(10.0**low, 10.0**high)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(len(report.units) - 0.4, -0.6)
    axes.set_yticks(range(len(report.units)), [unit.name for unit in report.units])
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_title("relative squared error of each unit", loc="left")
    axes.set_xlabel("Σ(half − dense)² / Σ(dense − mean)²; on the right the error at the end")
    names = {"at first": _START, "at the end": _HALF}
    dots = [axes.plot([], [], "o", color=_rgb(n), markersize=6)[0] for n in names.values()]
    # Under the axis: within it, it would cover points of one unit or another.
    axes.legend(dots, names, loc="upper center", bbox_to_anchor=(0.5, -0.55 / _height(axes)),
                ncols=2)  # fmt: skip


def _height(axes: "Axes") -> float:
    """Inches that the axes have, nearly."""
    return axes.get_figure().get_figheight() - 1.2


def _draw_pair(axes: "Axes", title: str, numbers: tuple[int, int], labels: Iterable[str]) -> None:
    axes.set_title(f"{title}: {numbers[1] / numbers[0]:.1%}", loc="left")
    axes.barh(["dense", "half"], numbers, height=0.6, color=[_rgb(_DENSE), _rgb(_HALF)])
    for row, (number, label) in enumerate(zip(numbers, labels, strict=True)):
        axes.annotate(label, (number, row), (4, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(numbers))
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _draw_agreement(axes: "Axes", report: Report) -> None:
    if report.agreement is None:
        axes.set_axis_off()
        axes.set_title("no classes to compare", loc="left", color="0.5")
        return
    axes.set_title(f"same class as the dense model: {report.agreement:.1%}", loc="left")
    axes.barh([""], [100], height=0.6, color="0.9")
    axes.barh([""], [100 * report.agreement], height=0.6, color=_rgb(_HALF))
    axes.set_xlim(0, 145)
    axes.set_ylim(-0.9, 0.9)
    axes.set_xticks([0, 50, 100])
    axes.spines["left"].set_visible(False)
    apart = "" if report.divergence is None else f"; {report.divergence:.3g} nats apart"
    axes.set_xlabel(f"% of {report.images:,} calibration images{apart}", loc="left")


def _rgb(number: int) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in line_colour(number))
