"""What was measured, as JSON, and the ratios that follow from it.

A file holds ``runs`` (machine, versions and command of each call) and ``cells``: one for each case
of a comparison, with what was measured of each of its models, ours first.
"""

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import temporary_beside
from .comparisons import COMPARISONS, QUICK

Cell = dict[str, Any]

#: What two cells have in common, beside their models, if they are the same case.
_KEY = (
    "comparison", "mode", "batch", "dtype", "backend", "device", "channels_last", "threads"
)  # fmt: skip

#: Facts for the roofline, which are in other cells only to be divided by their times.
_FACTS = ("FLOPs", "bytes moved")


class Results:
    """Cells of one or several calls of the benchmark."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.cells: list[Cell] = []

    def start_run(self, about: Mapping[str, Any]) -> None:
        """Tells what the cells that follow were measured on."""
        self.runs.append(dict(about))

    def add(self, cell: Cell, run: int | None = None) -> None:
        """Adds a cell of a run, by default of the last; it replaces one of the same case."""
        cell = {**cell, "run": len(self.runs) - 1 if run is None else run}
        self.cells = [one for one in self.cells if _key(one) != _key(cell)]
        self.cells.append(cell)

    def write(self, path: Path) -> None:
        """Writes all as JSON, whole or not at all."""
        content = {"runs": self.runs, "cells": self.cells}
        with temporary_beside(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
            os.replace(temporary, path)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "Results":
        """Reads files; of the same case the one in the later file counts.

        Raises:
            UserError: A file is missing or was not written by :meth:`write`.
        """
        results = cls()
        for path in paths:
            try:
                content = json.loads(path.read_text())
                runs, cells = content["runs"], content["cells"]
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}; check the path") from error
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}: this holds no results of the benchmark; give the JSON files that "
                    "tools/benchmark.py wrote"
                ) from error
            first = len(results.runs)
            results.runs += runs
            for cell in cells:
                results.add(cell, first + cell["run"])
        return results

    def ordered(self) -> list[Cell]:
        """The cells in the order of the table of comparisons, then as measured."""
        order = {name: number for number, name in enumerate({**COMPARISONS, **QUICK})}
        return sorted(self.cells, key=lambda cell: order.get(cell["comparison"], len(order)))


@dataclass(frozen=True, kw_only=True)
class Row:
    """Ours against one peer, by one measure.

    Attributes:
        comparison: Name of the comparison.
        measure: What was measured, such as ``training time``; a mode where a model failed.
        case: Batch size, data type and so on, for people.
        ours: Our model's label.
        peer: The peer's.
        ours_value: Median of ours in the measure's unit: seconds, bytes, operations, or none.
        peer_value: The same of the peer.
        ratio: Median of the rounds' ratios, ours to the peer's; None where one of the two failed.
        low: First quartile of the ratios.
        high: Third quartile.
        target: What the ratio is not to exceed, if anything.
        fault: Why there is no ratio.
    """

    comparison: str
    measure: str
    case: str
    ours: str
    peer: str
    ours_value: float | None = None
    peer_value: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    target: float | None = None
    fault: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none or nothing was measured."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio <= self.target


def rows(results: Results) -> list[Row]:
    """All ratios of all cells."""
    return [row for cell in results.ordered() for row in cell_rows(cell)]


def cell_rows(cell: Cell) -> Iterator[Row]:
    """The ratios of a cell: for each peer and measure one."""
    ours, *peers = cell["models"]
    for peer in peers:
        names = dict(
            comparison=cell["comparison"],
            case=_case(cell),
            ours=ours["label"],
            peer=peer["label"],
        )
        faults = [f"{one['label']}: {one['error']}" for one in (ours, peer) if "error" in one]
        if faults:
            yield Row(**names, measure=cell["mode"], fault="; ".join(faults))
            continue
        for measure, mine in ours["measures"].items():
            theirs = peer["measures"].get(measure)
            fact = measure in _FACTS and cell["mode"] != "sizes"
            if theirs and all(theirs) and not fact:
                target = _target(cell, measure, peer["label"])
                yield _row(names, measure, mine, theirs, target)
    yield from _error_row(cell)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile, interpolated between the values."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _row(
    names: Mapping[str, str],
    measure: str,
    mine: Sequence[float],
    theirs: Sequence[float],
    target: float | None,
) -> Row:
    low, middle, high = quartiles([a / b for a, b in zip(mine, theirs, strict=True)])
    return Row(
        **names,
        measure=measure,
        ours_value=statistics.median(mine),
        peer_value=statistics.median(theirs),
        ratio=middle,
        low=low,
        high=high,
        target=target,
    )


def _error_row(cell: Cell) -> Iterator[Row]:
    """Our error of bf16, to which a measured comparison's target is the largest of the peers'."""
    measure = "bf16 error"
    ours, *peers = (one["measures"].get(measure) for one in cell["models"])
    peers = [errors for errors in peers if errors]
    if ours and peers:
        names = dict(
            comparison=cell["comparison"],
            case=_case(cell),
            ours=cell["models"][0]["label"],
            peer="the peers' largest",
        )
        largest = max(error for errors in peers for error in errors)
        target = 1.0 if cell["comparison"] in COMPARISONS else None
        yield _row(names, measure, [statistics.median(ours)], [largest], target)


def _target(cell: Cell, measure: str, peer: str) -> float | None:
    comparison = COMPARISONS.get(cell["comparison"])
    for contestant in comparison.peers if comparison else ():
        for target in contestant.targets:
            if contestant.label == peer and target.is_for(measure, cell["batch"]):
                return target.limit
    return None


def _case(cell: Cell) -> str:
    if cell["mode"] in ("sizes", "start-up"):
        return ""
    parts = [f"batch {cell['batch']}", cell["dtype"], cell["backend"]]
    parts += [cell["device"]] * (cell["device"] != "cpu")
    parts += ["channels last"] * cell["channels_last"]
    return ", ".join(parts)


def _key(cell: Cell) -> tuple:
    models = tuple(model["label"] for model in cell["models"])
    return (*(cell[name] for name in _KEY), models)
