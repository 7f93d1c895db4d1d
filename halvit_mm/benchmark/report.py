"""The results as Markdown."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .results import Results, Row, rows

_NOTHING = "–"

#: Sections of the report: title, and which measures belong there.
_SECTIONS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("Time", lambda measure: measure.endswith(" time")),
    ("Peak memory", lambda measure: measure.endswith(" memory")),
    ("Bytes, operations and rounding", lambda measure: True),
)


def markdown(results: Results) -> str:
    """The whole report: verdicts, ratios, share of the machine's peak, and the machine."""
    found = rows(results)
    blocks = [verdicts(found)]
    left = [row for row in found if row.fault is None]
    for title, belongs in _SECTIONS:
        section = [row for row in left if belongs(row.measure)]
        left = [row for row in left if not belongs(row.measure)]
        if section:
            blocks += [f"## {title}", table(section)]
    if failed := [row for row in found if row.fault is not None]:
        blocks += ["## Failed", "\n".join(f"- {line(row)}" for row in failed)]
    if shares := list(_roofline(results)):
        blocks += ["## Share of the machine's peak", _table(_ROOFLINE, shares)]
    blocks += ["## Measured on", "\n".join(_machines(results))]
    return "\n\n".join(blocks) + "\n"


def verdicts(found: Sequence[Row]) -> str:
    """How many targets are met, and which are not."""
    judged = [row for row in found if row.met is not None]
    missed = [row for row in judged if not row.met]
    if not judged:
        return "No targets are set for what was measured."
    text = f"{len(judged) - len(missed)} of {len(judged)} targets are met."
    return text + "".join(f"\n- {line(row)}" for row in missed)


def table(found: Iterable[Row]) -> str:
    """A Markdown table of ratios. Time and memory are medians, the ratio is that of the rounds."""
    header = ("comparison", "measure", "case", "peer", "ours", "peer's", "ratio", "quartiles",
              "target", "met")  # fmt: skip
    return _table(header, map(_cells, found))


def line(row: Row) -> str:
    """A ratio in one line."""
    head = f"{row.comparison}: {', '.join(filter(None, (row.measure, row.case)))}, to {row.peer}"
    if row.fault is not None:
        return f"{head}: failed: {row.fault}"
    return f"{head}: {row.ratio:.3f}{_in_brackets(row)}{_verdict(row)}"


def amount(measure: str, value: float) -> str:
    """A value with its unit."""
    if measure.endswith(" time"):
        return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"
    if measure == "FLOPs":
        return f"{value / 1e9:.3g} G"
    if measure == "bf16 error":
        return f"{100 * value:.3f} %"
    return f"{value / 2**20:.2f} MiB"


def _in_brackets(row: Row) -> str:
    return "" if row.low == row.high else f" ({row.low:.3f}–{row.high:.3f})"


def _verdict(row: Row) -> str:
    if row.met is None:
        return ""
    return f", target ≤ {row.target:.2f} {'met' if row.met else 'missed'}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.comparison,
        row.measure,
        row.case or _NOTHING,
        row.peer,
        amount(row.measure, row.ours_value),
        amount(row.measure, row.peer_value),
        f"{row.ratio:.3f}",
        _in_brackets(row).strip(" ()") or _NOTHING,
        _NOTHING if row.target is None else f"≤ {row.target:.2f}",
        _NOTHING if row.met is None else "yes" if row.met else "**no**",
    )


_ROOFLINE = ("comparison", "model", "case", "time", "FLOPs", "moved", "FLOP/s", "of peak",
             "bytes/s", "of peak", "of roofline")  # fmt: skip


def _roofline(results: Results) -> Iterator[tuple[str, ...]]:
    """What each model reaches of the rates that its run measured.

    The roofline is the time that the slower of the two takes at its peak: arithmetic or memory.
    """
    for cell in results.ordered():
        peaks = results.runs[cell["run"]].get("peaks")
        for model in cell["models"]:
            values = {name: statistics.median(v) for name, v in model["measures"].items()}
            seconds = values.get(f"{cell['mode']} time")
            if not (peaks and seconds and values.get("FLOPs")):
                continue
            arithmetic = values["FLOPs"] / peaks[cell["dtype"]]
            memory = values["bytes moved"] / peaks["bytes"]
            yield (
                cell["comparison"],
                model["label"],
                f"{cell['mode']}, batch {cell['batch']}, {cell['dtype']}, {cell['backend']}",
                amount(" time", seconds),
                amount("FLOPs", values["FLOPs"]),
                amount("", values["bytes moved"]),
                f"{values['FLOPs'] / seconds / 1e9:.3g} G",
                f"{arithmetic / seconds:.0%}",
                f"{values['bytes moved'] / seconds / 1e9:.3g} G",
                f"{memory / seconds:.0%}",
                f"{max(arithmetic, memory) / seconds:.0%}",
            )


def _machines(results: Results) -> Iterator[str]:
    """What the figures were measured on, a line or two for each run."""
    for run in results.runs:
        versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
        variables = [f"{name}={value}" for name, value in run["environment"].items()]
        on = run["gpu"] if run["device"] == "cuda" else run["cpu"]
        yield (
            f"- {run['date'][:10]}, {on}, {run['threads']} of {run['cores']} cores, "
            f"Python {run['python']}, {versions}: `{' '.join([*variables, run['command']])}`"
        )
        if peaks := run.get("peaks"):
            yield (
                f"  - reached by matrix products of 2048 × 2048: {peaks['fp32'] / 1e9:.0f} GFLOP/s "
                f"in fp32, {peaks['bf16'] / 1e9:.0f} in bf16; by copying 256 MiB: "
                f"{peaks['bytes'] / 1e9:.1f} GB/s"
            )


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines: list[Sequence[Any]] = [header, *body]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        + " |"
        for cells in lines
    )  # fmt: skip
