"""What a config's model costs: parameters, uses of them, multiply-accumulates, checkpoint bytes."""

from .counting import ModelCount, count_model
from .parts import Part
from .reporting import count_configs, find_configs, report
from .tables import as_dict, summary, table

__all__ = [
    "ModelCount",
    "Part",
    "as_dict",
    "count_configs",
    "count_model",
    "find_configs",
    "report",
    "summary",
    "table",
]
