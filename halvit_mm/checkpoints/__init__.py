"""Reading, checking and publishing checkpoints."""

from .loading import LoadReport, PretrainedBackbone, compare, load_backbone
from .reading import read_state_dict

__all__ = ["LoadReport", "PretrainedBackbone", "compare", "load_backbone", "read_state_dict"]
