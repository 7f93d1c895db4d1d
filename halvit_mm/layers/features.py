"""What a layer computes on the way, for distillation and for those who look inside."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from .attention import QKV
from .window import WindowLayout


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


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """How the tokens of one layer look at each other, on maps of one size.

    Attributes:
        block: The layer's block.
        inputs: What the block is called with after the tokens.
        layout: The attention windows of the map.
        stride: Side of a token in pixels of the image.
    """

    block: nn.Module
    inputs: tuple[Any, ...]
    layout: WindowLayout
    stride: int

    @property
    def num_heads(self) -> int:
        """Heads of the layer's attention."""
        return self.block.attn.num_heads

    def weights(self, qkv: QKV, queries: slice = slice(None)) -> Tensor:
        """What attention multiplies values by, for some of the queries of each window.

        Args:
            qkv: The layer's :attr:`LayerFeatures.qkv`.
            queries: Places in a window.

        Returns:
            Weights (windows of all images, heads, n, tokens of a window).
        """
        return self.block.attention_weights(qkv, *self.inputs, queries=queries)
