"""Accuracy against steps of training, as one picture."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...visualization.colours import line_colour
from ...visualization.files import png_file
from .experiment import ARMS, USUAL_ARMS, Experiment
from .results import Results, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = {
    "font.size": 10.5,
    "axes.edgecolor": "0.5",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "xtick.color": "0.3",
    "xtick.minor.bottom": False,
    "ytick.color": "0.3",
}
#: The colour tells where an arm starts, the dashes that it has no teacher.
_COLOURS = {
    start: tuple(channel / 255 for channel in line_colour(number))
    for number, start in enumerate(
        ("halved", "scratch", "narrow-selected", "halved-average", "halved-aligned")
    )
}
_MARKERS = {
    "halved": "o", "scratch": "s", "narrow-selected": "^", "halved-average": "v",
    "halved-aligned": "D",
}  # fmt: skip
_DASHES = (0, (3.5, 2))
_DENSE = "0.35"
_ASIDE = 1.035  # factor in steps from one arm to the next, so that bars do not hide one another
_ZERO = 3.0  # the start stands at the least number of steps divided by this


def chart(experiment: Experiment, results: Results, out: str | Path) -> None:
    """Draws the mean of each arm over its seeds, with bars from the lowest to the highest.

    The steps are on a logarithmic axis; left of a gap is the start, before any training. The dense
    twin is a band over the whole width, as wide as its seeds are apart.

    Args:
        experiment: What was to be run.
        results: What was.
        out: PNG to write.

    Raises:
        UserError: ``out`` cannot be written.
    """
    with png_file(out) as file:
        # A figure by itself: pyplot would keep it and might open windows.
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        with rc_context(_STYLE):
            figure = Figure(figsize=(10, 5.4), dpi=150, layout="constrained")
            axes = figure.add_subplot()
            _draw(axes, experiment, results)
            figure.legend(loc="outside right center", handlelength=2.8)
            figure.savefig(file, format="png")


def _draw(axes: "Axes", experiment: Experiment, results: Results) -> None:
    steps = experiment.steps_of("scratch")
    (continued,) = experiment.steps_of("dense-continued")
    least = min(*steps, continued)
    zero = least / _ZERO
    axes.set_xscale("log")
    if dense := results.spread("dense", experiment.steps):
        low, high = min(dense.values), max(dense.values)
        axes.axhspan(low, high, color=_DENSE, alpha=0.18, linewidth=0)
        label = f"dense twin, {experiment.steps} steps"
        axes.axhline(dense.mean, color=_DENSE, linewidth=1.2, label=label)
    shown = {*USUAL_ARMS, *(result.arm for result in results.all)}
    arms = [arm for arm in ARMS if arm in shown and arm != "dense-continued"]
    for number, arm in enumerate(arms):
        aside = _ASIDE ** (number - (len(arms) - 1) / 2)
        _draw_arm(axes, experiment, results, arm, zero=zero, aside=aside)
    if further := results.spread("dense-continued", continued):
        _point(axes, continued, further, color=_DENSE, marker="*", markersize=11,
               label=f"dense twin, {continued} steps more")  # fmt: skip
    else:
        axes.plot([], [], color="0.8", marker="*", label="dense-continued (not run)")

    ticks = {zero: "0", **{number: f"{number:,}" for number in steps}}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(zero / 1.25, max(*steps, continued) * 1.25)
    gap = (zero * least) ** 0.5
    axes.text(gap, 0, "//", transform=axes.get_xaxis_transform(), ha="center", va="center",
              color="0.4", fontweight="bold")  # fmt: skip
    axes.set_xlabel("steps of training after halving, selecting, or a random start")
    axes.set_ylabel("top-1 accuracy (%)")


def _draw_arm(
    axes: "Axes", experiment: Experiment, results: Results, arm: str, *, zero: float, aside: float
) -> None:
    start = arm.removesuffix("-distilled")
    look = {
        "color": _COLOURS[start],
        "marker": _MARKERS[start],
        "linestyle": "-" if arm.endswith("-distilled") else _DASHES,
    }
    trained = {s: spread for s in experiment.steps_of(arm) if (spread := results.spread(arm, s))}
    untrained = results.spread(start, 0)
    if not trained and (untrained is None or start != arm):
        axes.plot([], [], **{**look, "color": "0.8"}, label=f"{arm} (not run)")
        return
    label = arm
    if trained:
        steps = [aside * number for number in trained]
        means = [spread.mean for spread in trained.values()]
        axes.plot(steps, means, **look, label=label)
        label = None
        for number, spread in zip(steps, trained.values(), strict=True):
            _point(axes, number, spread, **look)
    if untrained and trained:  # thin, as nothing was measured in between
        thin = {"linewidth": 0.7, "alpha": 0.6, "color": look["color"]}
        means = [untrained.mean, means[0]]
        axes.plot([zero, steps[0]], means, linestyle=look["linestyle"], **thin)
    if untrained and arm == start:
        _point(axes, zero, untrained, **look, label=label, markerfacecolor="white")


def _point(
    axes: "Axes", x: float, spread: Spread, *, linestyle: object = None, **look: object
) -> None:
    """A mean, and a bar from the lowest to the highest."""
    low, high = min(spread.values), max(spread.values)
    bars = [[spread.mean - low], [high - spread.mean]]
    axes.errorbar([x], [spread.mean], bars, linestyle="none", capsize=2.5, elinewidth=1.2, **look)
