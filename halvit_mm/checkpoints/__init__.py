"""Reading, checking, converting and publishing checkpoints."""

from .conversion import convert
from .loading import LoadReport, PretrainedBackbone, compare, load_backbone
from .minivit_export import to_official
from .reading import read_state_dict

__all__ = [
    "LoadReport",
    "PretrainedBackbone",
    "compare",
    "convert",
    "load_backbone",
    "read_state_dict",
    "to_official",
]
