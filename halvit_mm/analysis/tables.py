"""Counts as Markdown tables and for JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from .counting import ModelCount
from .parts import Part
from .sizes import Size
from .tracing import NUM_BOXES, NUM_MASKS

_NOTHING = "–"

LEGEND = f"""\
parameters   every weight once
naive        as if every use of a weight of the backbone had a copy of its own
GMACs        10⁹ multiply-accumulates of convolutions and matrix products for one image, often
             called GFLOPs in papers; RoI heads get {NUM_BOXES} boxes and {NUM_MASKS} masks
             (in cascades as many as boxes)
checkpoint   the tensors of the state dict in fp32; 1 MB = 10⁶ bytes
dense twin   the same config without shared weights; {_NOTHING} where the backbone has no such form
             or is it itself"""


def table(path: str, count: ModelCount) -> str:
    """All about one config in Markdown."""
    rows = []
    for part in count.parts:
        rows.append((part.name, part))
        if part is count.without_head:
            rows += [(f"· {title}", stage) for title, stage in _merged(count.stages)]
    rows.append(("total", count.total))
    size = _size(count.input_size)
    if count.padded_size != count.input_size:
        size += f" padded to {_size(count.padded_size)}"
    lines = [
        f"{path}: {count.model} on {count.backbone}, {size}",
        "",
        _markdown(
            ("part", "parameters", "naive", "GMACs"),
            [(t, f"{p.parameters:,}", f"{p.naive:,}", _billions(p.macs)) for t, p in rows],
        ),
        "",
        f"checkpoint: {_megabytes(count.checkpoint_bytes)} (naive "
        f"{_megabytes(count.naive_checkpoint_bytes)})",
    ]
    if twin := count.dense_twin:
        options = ", ".join(f"{key}={value!r}" for key, value in count.twin_options.items())
        lines += [
            f"dense twin ({options}): backbone {twin.without_head.parameters:,}, total "
            f"{twin.total.parameters:,} parameters, {_billions(twin.total.macs)} GMACs, "
            f"checkpoint {_megabytes(twin.checkpoint_bytes)}",
            f"ratio to the dense twin: backbone {_ratio(count.without_head, twin.without_head)}, "
            f"total {_ratio(count.total, twin.total)}",
        ]
    else:
        lines.append(f"dense twin: {_NOTHING}")
    return "\n".join(lines)


def summary(counts: dict[str, ModelCount]) -> str:
    """A row of Markdown for each config."""
    rows = []
    for path, count in counts.items():
        cells = [path]
        for part in ("without_head", "total"):
            own, twin = getattr(count, part), getattr(count.dense_twin, part, None)
            cells += [f"{own.parameters:,}", f"{own.naive:,}", _ratio(own, twin)]
        size = _size(count.padded_size)
        cells += [_billions(count.total.macs), size, _megabytes(count.checkpoint_bytes)]
        rows.append(cells)
    header = ("config", "backbone", "naive", "/ dense", "with head", "naive", "/ dense")
    return _markdown((*header, "GMACs", "at", "checkpoint"), rows)


def as_dict(count: ModelCount) -> dict[str, Any]:
    """All about one config, for JSON; sizes are height and width, ratios are not rounded."""
    twin = count.dense_twin
    result = asdict(count)
    for key in ("parameters", "naive", "macs"):
        result[key] = getattr(count.total, key)
        result[f"{key}_without_head"] = getattr(count.without_head, key)
    result["naive_checkpoint_bytes"] = count.naive_checkpoint_bytes
    if twin is not None:
        result["dense_twin"] = as_dict(twin)
        result["ratio"] = count.total.parameters / twin.total.parameters
        result["ratio_without_head"] = count.without_head.parameters / twin.without_head.parameters
    return result


def _merged(stages: tuple[Part, ...]) -> Iterator[tuple[str, Part]]:
    """Stages with their titles; equal neighbours in a list of modules become one row."""

    def likeness(stage: Part) -> tuple:
        name, _, index = stage.name.rpartition(".")
        return name if index.isdigit() else stage.name, stage.parameters, stage.naive, stage.macs

    for _, group in groupby(stages, likeness):
        first, *others = group
        title = first.name
        if others:
            title += f" … {others[-1].name.rpartition('.')[2]}, each"
        elif first.members != (first.name,) and first.members:
            title += f" ({', '.join(first.members)})"
        yield title, first


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (header, rule, *rows):
        cells = [c.rjust(width) for c, width in zip(others, widths[1:], strict=True)]
        lines.append("| " + " | ".join([first.ljust(widths[0]), *cells]) + " |")
    return "\n".join(lines)


def _size(size: Size) -> str:
    return f"{size[0]} × {size[1]}"


def _billions(macs: int) -> str:
    return f"{macs / 1e9:.3f}"


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB"


def _ratio(part: Part, twin: Part | None) -> str:
    return _NOTHING if twin is None else f"{part.parameters / twin.parameters:.3f}"
