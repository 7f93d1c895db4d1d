"""What distillation compares of a layer."""

from typing import NamedTuple

from torch import Tensor

from .attention import QKV


class LayerFeatures(NamedTuple):
    """What one layer of a vision transformer computes on the way.

    Attributes:
        qkv: Queries, keys and values as they are projected, with their biases and unscaled, each
            (windows of all images, tokens of a window, dim); global attention has one window an
            image.
        hidden: The layer's output (B, N, dim), a class token included.
    """

    qkv: QKV
    hidden: Tensor
