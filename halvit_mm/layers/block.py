"""The transformer block that every plain backbone here is a stack of."""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .attention import QKV
from .checks import check_flags, check_number, check_parts, check_sides, check_tokens, check_whole
from .dense import DenseAttention, DenseFFN
from .relative_position import DecomposedRelativePosition
from .tied import SignedGELU, TiedAttention, TiedFFN
from .window import Size, WindowLayout


class LayerScale(nn.Module):
    """Multiplies each channel by a learned scale (Touvron et al., "CaiT", ICCV 2021, eq. 6)."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        check_number(layer_scale=init)
        self.gamma = nn.Parameter(torch.full((dim,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        return x * self.gamma


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: ``x ← x + Attn(LN(x))``, ``x ← x + FFN(LN(x))``.

    Args:
        dim: Width of the tokens.
        num_heads: Number of attention heads.
        hidden_dim: Width of the feed-forward's hidden layer.
        tied: Which of ``"attn"`` and ``"ffn"`` use each weight twice; the others are dense.
        window: Height and width of the attention windows in tokens; None attends globally.
        rel_pos_size: Map size of the decomposed relative position; None leaves it out.
        layer_scale: Initial value of LayerScale; None leaves it out.
        drop_path: Probability of dropping a residual branch of a sample in training.
        signed_ffn: Activates the feed-forward's hidden layer by :class:`SignedGELU`.
        init_std: Standard deviation of the initial weights of attention and feed-forward.
        second_scale: Scales the second use of tied weights; see :class:`TiedFFN` and
            :class:`TiedAttention`.
        second_rank: Rank of what is added to the second use of tied weights.

    Raises:
        ValueError: An option is wrong; in :meth:`forward`, the tokens are not those of the map.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        tied: Collection[str] = ("attn", "ffn"),
        window: Size | None = None,
        rel_pos_size: Size | None = None,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        signed_ffn: bool = False,
        init_std: float = 0.02,
        second_scale: bool = False,
        second_rank: int = 0,
    ) -> None:
        super().__init__()
        check_whole(dim=dim, hidden_dim=hidden_dim)
        check_number(least=0, most=1, drop_path=drop_path)
        check_flags(signed_ffn=signed_ffn)
        check_parts(("attn", "ffn"), tied=tied)
        if window is not None:
            check_sides(window=window)
        self.window = window
        second = dict(second_scale=second_scale, second_rank=second_rank)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        attention = partial(TiedAttention, **second) if "attn" in tied else DenseAttention
        self.attn = attention(dim, num_heads, init_std=init_std)
        self.rel_pos = (
            DecomposedRelativePosition(rel_pos_size, dim // num_heads) if rel_pos_size else None
        )
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        act_layer = partial(SignedGELU, hidden_dim) if signed_ffn else nn.GELU
        feed_forward = partial(TiedFFN, **second) if "ffn" in tied else DenseFFN
        self.ffn = feed_forward(dim, hidden_dim, act_layer=act_layer, init_std=init_std)
        scaled = layer_scale is not None
        self.scale1 = LayerScale(dim, layer_scale) if scaled else nn.Identity()
        self.scale2 = LayerScale(dim, layer_scale) if scaled else nn.Identity()
        self.drop_path = StochasticDepth(drop_path, mode="row") if drop_path else nn.Identity()

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """Runs the block.

        Args:
            x: Tokens (B, N, dim), N = H · W; one class token in front is allowed where neither
                windows nor relative positions are used.
            size: Height H and width W of the token map.
        """
        # Queries, keys and values are let go before the feed-forward needs memory.
        return self._feed_forward(self._attend(x, size)[0])

    def forward_with_qkv(self, x: Tensor, size: Size) -> tuple[Tensor, QKV]:
        """As the block itself, with what attention compares.

        Returns:
            Tokens (B, N, dim), and queries, keys and values as they are projected, each
            (windows of all images, tokens of a window, dim).
        """
        x, qkv = self._attend(x, size)
        return self._feed_forward(x), qkv

    def attention_weights(self, qkv: QKV, size: Size, *, queries: slice = slice(None)) -> Tensor:
        """What the block's attention multiplies values by.

        Args:
            qkv: What :meth:`forward_with_qkv` returned.
            size: As given to it.
            queries: Some of the queries, by their places in a window.

        Returns:
            Weights (windows of all images, heads, n, tokens of a window).
        """
        layout = WindowLayout(size, self.window)
        images = qkv[0][:: layout.num_windows]
        return self.attn.weights(qkv, queries, **self._between(layout, images))

    def _attend(self, x: Tensor, size: Size) -> tuple[Tensor, QKV]:
        check_tokens(
            x, self.attn.dim, size, class_token=self.window is None and self.rel_pos is None
        )
        layout = WindowLayout(size, self.window)
        attended, qkv = self.attn(
            layout.partition(self.norm1(x)), **self._between(layout, x), return_qkv=True
        )
        return x + self.drop_path(self.scale1(layout.merge(attended))), qkv

    def _between(self, layout: WindowLayout, images: Tensor) -> dict[str, Any]:
        """What stands between queries and weights; of ``images``, B and the device count."""
        return dict(
            mask=layout.mask(images),
            rel_pos=partial(self.rel_pos.for_queries, layout.window) if self.rel_pos else None,
        )

    def _feed_forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.scale2(self.ffn(self.norm2(x))))
