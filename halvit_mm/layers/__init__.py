"""Layers in plain PyTorch: no OpenMMLab import, usable in anyone's model."""

from .attention import MultiHeadAttention
from .block import LayerScale, TransformerBlock
from .bottleneck import DenseStage, TiedResNetStage, TiedResNeXtStage
from .dense import DenseAttention, DenseFFN
from .features import LayerAttention, LayerFeatures
from .folding import fold_batch_norms
from .multiplexed import HeadMixer, LocalConv, MultiplexedBlock
from .norm import LayerNorm2d
from .position import adapt_position_embedding, resize_position_embedding
from .relative_position import (
    DecomposedRelativePosition,
    ImageRelativePosition,
    WindowRelativePosition,
)
from .second_use import SecondUse
from .tied import SignedGELU, TiedAttention, TiedFFN
from .window import WindowLayout, window_mask, window_merge, window_partition

__all__ = [
    "DecomposedRelativePosition",
    "DenseAttention",
    "DenseFFN",
    "DenseStage",
    "HeadMixer",
    "ImageRelativePosition",
    "LayerAttention",
    "LayerFeatures",
    "LayerNorm2d",
    "LayerScale",
    "LocalConv",
    "MultiHeadAttention",
    "MultiplexedBlock",
    "SecondUse",
    "SignedGELU",
    "TiedAttention",
    "TiedFFN",
    "TiedResNeXtStage",
    "TiedResNetStage",
    "TransformerBlock",
    "WindowLayout",
    "WindowRelativePosition",
    "adapt_position_embedding",
    "fold_batch_norms",
    "resize_position_embedding",
    "window_mask",
    "window_merge",
    "window_partition",
]
