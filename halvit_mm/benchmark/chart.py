"""The ratios as one picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..visualization.colours import line_colour
from ..visualization.files import png_file
from .results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: The diagrams: title, and which measures belong there.
_PANELS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("time of inference", lambda row: row.measure == "inference time"),
    ("time of a training step", lambda row: row.measure == "training time"),
    ("peak memory of inference", lambda row: row.measure == "inference memory"),
    ("peak memory of a training step", lambda row: row.measure == "training memory"),
    # Whole models have their classes' weights as well, which nobody shares.
    ("bytes of the backbone", lambda row: row.measure.endswith(", backbone")),
    ("time until a model is there", lambda row: row.measure == "start-up time"),
)
_BAR = 0.21  # inches
_STYLE = {
    "font.size": 9,
    "axes.edgecolor": "0.5",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.12,
    "xtick.color": "0.3",
    "ytick.left": False,
}


def chart(rows: Sequence[Row], out: str | Path) -> None:
    """Draws ratios as horizontal bars, each comparison in a colour of its own.

    A bar is a median, the line on it reaches from the first to the third quartile, the line through
    all bars is 1, where ours and the peer are equal, and a tick is what is to be reached.

    Args:
        rows: The ratios; those that failed or have no diagram are left out.
        out: PNG to write; left as it is if there is nothing to draw.

    Raises:
        UserError: ``out`` cannot be written.
    """
    panels = [(title, [r for r in rows if r.ratio and belongs(r)]) for title, belongs in _PANELS]
    panels = [(title, shown) for title, shown in panels if shown]
    if not panels:
        return
    with png_file(out) as file:
        # A figure by itself: pyplot would keep it and might open windows.
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        names = list(dict.fromkeys(row.comparison for row in rows))
        heights = [0.7 + _BAR * (len(shown) + _gaps(shown)) for _, shown in panels]
        with rc_context(_STYLE):
            figure = Figure(figsize=(10, 0.5 + sum(heights)), dpi=150, layout="constrained")
            axes = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
            for one, (title, shown) in zip(axes, panels, strict=True):
                one.set_title(f"{title}, ours to the peer's", loc="left")
                _draw(one, shown, names)
            figure.savefig(file, format="png")


def _draw(axes: "Axes", rows: Sequence[Row], names: Sequence[str]) -> None:
    places, place = [], 0.0
    for row, before in zip(rows, (None, *rows), strict=False):
        place += 1 if before is None or before.comparison == row.comparison else 1.6
        places.append(place)
    for row, y in zip(rows, places, strict=True):
        colour = tuple(channel / 255 for channel in line_colour(names.index(row.comparison)))
        axes.barh(y, row.ratio, height=0.75, color=colour, alpha=0.75)
        axes.plot([row.low, row.high], [y, y], color="0.15", linewidth=1.6)
        end = max(row.high, row.target or 0)
        axes.annotate(
            f"{row.ratio:.2f}", (end, y), (4, 0), textcoords="offset points", va="center",
            color="0.3",
        )  # fmt: skip
        if row.target is not None:
            axes.plot([row.target] * 2, [y - 0.48, y + 0.48], color="#b3202a", linewidth=2.2)
    axes.axvline(1, color="0.3", linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(places, [_label(row) for row in rows])
    axes.set_ylim(places[-1] + 0.7, places[0] - 0.7)
    ends = [end for row in rows for end in (row.high, row.target or 0)]
    axes.set_xlim(0, 1.08 * max(1, *ends))


def _gaps(rows: Sequence[Row]) -> float:
    return 0.6 * (len({row.comparison for row in rows}) - 1)


def _label(row: Row) -> str:
    what = [f"{row.ours} / {row.peer}"]
    if row.case:
        # What nearly all bars have in common says nothing.
        what += [part for part in row.case.split(", ") if part not in ("fp32", "eager")]
    if row.measure.endswith(", backbone"):
        what.append(row.measure.removesuffix(", backbone"))
    return ", ".join(what)
