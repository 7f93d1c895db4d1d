"""Layers in plain PyTorch: no OpenMMLab import, usable in anyone's model."""

from .attention import MultiHeadAttention
from .block import LayerScale, TransformerBlock
from .bottleneck import DenseStage, TiedResNetStage, TiedResNeXtStage
from .dense import DenseAttention, DenseFFN
from .norm import LayerNorm2d
from .position import (
    DecomposedRelativePosition,
    adapt_position_embedding,
    resize_position_embedding,
)
from .tied import SignedGELU, TiedAttention, TiedFFN
from .window import window_mask, window_merge, window_partition

__all__ = [
    "DecomposedRelativePosition",
    "DenseAttention",
    "DenseFFN",
    "DenseStage",
    "LayerNorm2d",
    "LayerScale",
    "MultiHeadAttention",
    "SignedGELU",
    "TiedAttention",
    "TiedFFN",
    "TiedResNeXtStage",
    "TiedResNetStage",
    "TransformerBlock",
    "adapt_position_embedding",
    "resize_position_embedding",
    "window_mask",
    "window_merge",
    "window_partition",
]
