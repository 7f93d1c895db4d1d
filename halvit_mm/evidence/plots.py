"""The plots of the documentation that are drawn from logs.

A PNG carries a checksum of the logs that it was drawn from, and is drawn anew only when they have
changed, as no two versions of matplotlib draw the same bytes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import temporary_beside
from ..visualization import Run, Series, plot
from .halving_tables import COMPARISONS, comparison
from .logs import Logs

_KEY = "halvit_mm logs"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot.

    Attributes:
        name: Its name, that of its file in ``docs/images`` without the suffix.
        logs: The logs that it is drawn from, or patterns of them.
        draw: Draws a PNG from logs.
    """

    name: str
    logs: tuple[str, ...]
    draw: Callable[[Logs, Path], None]

    def is_fresh(self, logs: Logs, file: Path) -> bool:
        """Whether a file was drawn from these logs."""
        from PIL import Image

        if not file.is_file():
            return False
        with Image.open(file) as image:
            return image.info.get(_KEY) == logs.digest(self.logs)

    def write(self, logs: Logs, file: Path) -> None:
        """Draws it and notes what it was drawn from."""
        self.draw(logs, file)
        self.stamp(logs, file)

    def stamp(self, logs: Logs, file: Path) -> None:
        """Notes in a PNG which logs it was drawn from."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_text(_KEY, logs.digest(self.logs))
        with temporary_beside(file) as temporary, Image.open(file) as image:
            image.save(temporary, format="png", pnginfo=text, optimize=True)
            os.replace(temporary, file)


def _curves(*names: str) -> Callable[[Logs, Path], None]:
    def draw(logs: Logs, out: Path) -> None:
        plot([logs.run(name) for name in names], out)

    return draw


def _benchmark(logs: Logs, out: Path) -> None:
    from ..benchmark.chart import chart
    from .cost_tables import benchmark_rows

    chart(benchmark_rows(logs), out)


def _halving(name: str) -> Callable[[Logs, Path], None]:
    def draw(logs: Logs, out: Path) -> None:
        from ..halving.comparison.chart import chart

        report = comparison(logs, name)
        chart(report.experiment, report.results, out)

    return draw


def _norms(logs: Logs, out: Path) -> None:
    from ..endurance.precision import draw

    found = []
    for one in logs.json("reliability/precision")["trainings"]:
        steps = np.array(one["iterations"])
        train = {
            key: Series(iterations=steps[-len(values) :], values=np.array(values))
            for key, values in one["curves"].items()
        }
        name = f"{Path(one['config']).stem} {one['dtype']}"
        run = Run(name=name, train=train, val={}, iterations_per_epoch=None)
        found.append((one["config"], one["dtype"], run))
    draw(found, out)


PLOTS = {
    one.name: one
    for one in (
        Plot(name="demo_curves", logs=("digits_demo",), draw=_curves("digits_demo")),
        Plot(
            name="nuclei_transfer_curves",
            logs=("nuclei_transfer_*_cpu",),
            draw=_curves("nuclei_transfer_pretrained_cpu", "nuclei_transfer_scratch_cpu"),
        ),
        Plot(name="benchmark", logs=("benchmark/*",), draw=_benchmark),
        *(
            Plot(
                name=f"halving_{name}",
                logs=(f"halving/{name}/comparison",),
                draw=_halving(name),
            )
            for name in COMPARISONS
        ),
        Plot(name="precision_norms", logs=("reliability/precision",), draw=_norms),
    )
}
