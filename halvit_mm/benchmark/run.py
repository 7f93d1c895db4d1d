"""The benchmark from its settings to its files."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import temporary_beside
from . import machine
from .comparisons import Comparison
from .measure import Settings, cases, measure_cell, measure_peaks
from .report import line, markdown
from .results import Results, cell_rows, rows


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Files to write; None for none."""

    json: Path | None = None
    markdown: Path | None = None
    chart: Path | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> "Outputs":
        """All of them in one folder."""
        return cls(
            json=folder / "benchmark.json",
            markdown=folder / "benchmark.md",
            chart=folder / "benchmark.png",
        )

    def check(self) -> None:
        """Makes the folders before hours are spent on what goes there.

        Raises:
            UserError: A file cannot be written.
        """
        for path in filter(None, (self.json, self.markdown, self.chart)):
            if path.is_dir():
                raise UserError(f"{path}: there is a folder of this name; choose another name")
            with temporary_beside(path):
                pass
        if self.chart and self.chart.suffix.lower() != ".png":
            raise UserError(f"{self.chart}: the chart is a PNG; give a name that ends in .png")


def benchmark(
    chosen: Mapping[str, Comparison],
    settings: Settings,
    *,
    outputs: Outputs,
    roofline: bool = False,
    tell: Callable[[str], None] = print,
) -> Results:
    """Measures comparisons; the JSON file is written anew after every cell.

    Args:
        chosen: The comparisons by name, from :func:`~halvit_mm.benchmark.measure.choose`.
        settings: What is measured of them.
        outputs: Files to write.
        roofline: Measure what the machine reaches, to which the models' rates are compared.
        tell: Gets a line for what goes on.

    Raises:
        UserError: A file cannot be written.
    """
    outputs.check()
    todo = [(name, one, case) for name, one in chosen.items() for case in cases(one, settings)]
    results = Results()
    peaks = measure_peaks(settings.device, settings.threads) if roofline else None
    results.start_run(
        machine.describe()
        | {"device": settings.device, "threads": settings.threads, "peaks": peaks}
    )
    for number, (name, comparison, case) in enumerate(todo, 1):
        tell(f"[{number}/{len(todo)}] {name}, {case.mode}")
        cell = measure_cell(name, comparison, case, settings)
        results.add(cell)
        if outputs.json:
            results.write(outputs.json)
        for row in cell_rows(cell):
            tell(f"  {line(row)}")
    return results


def render(results: Results, outputs: Outputs) -> str:
    """Writes all files; the Markdown.

    Raises:
        UserError: A file cannot be written.
    """
    outputs.check()
    text = markdown(results)
    if outputs.json:
        results.write(outputs.json)
    if outputs.markdown:
        with temporary_beside(outputs.markdown) as temporary:
            temporary.write_text(text)
            os.replace(temporary, outputs.markdown)
    if outputs.chart:
        from .chart import chart

        chart(rows(results), outputs.chart)
    return text
