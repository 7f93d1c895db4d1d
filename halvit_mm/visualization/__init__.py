"""Pictures of what a model predicts and of how its training went.

Nothing here is imported when ``halvit_mm`` is; matplotlib and pycocotools are imported when a
function first needs them.
"""

from .curves import Axis, plot, table
from .predictions import draw_predictions
from .runs import Run, Series, read_run, read_runs

__all__ = [
    "Axis",
    "Run",
    "Series",
    "draw_predictions",
    "plot",
    "read_run",
    "read_runs",
    "table",
]
