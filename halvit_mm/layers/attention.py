"""Multi-head attention without its projections: what tied and dense attention share."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_tokens, check_whole, is_whole
from .linear import is_exporting, is_transformed
from .mixed_attention import (
    Mixer,
    RelativeLogits,
    attention_weights,
    mask_of,
    mixed_attention,
)

QKV = tuple[Tensor, Tensor, Tensor]


class MultiHeadAttention(nn.Module):
    """Softmax attention over tokens; subclasses say which weights project in and out.

    Args:
        dim: Width of the tokens.
        num_heads: Number of heads; must divide ``dim``.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.

    :meth:`forward` raises ``TypeError`` and ``ValueError`` for what are no tokens (B, N, dim).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        check_whole(dim=dim)
        if not is_whole(num_heads) or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim={dim} cannot be divided among num_heads={num_heads}: "
                "choose a number of heads that divides dim"
            )
        self.dim = dim
        self.num_heads = num_heads

    def project_in(self, x: Tensor) -> QKV:
        """Maps tokens (B, N, dim) to queries, keys and values of the same shape."""
        raise NotImplementedError

    def project_out(self, x: Tensor) -> Tensor:
        """Maps the concatenated heads (B, N, dim) to the output (B, N, dim)."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        *,
        partition: Callable[[Tensor], Tensor] | None = None,
        mask: Tensor | None = None,
        rel_pos: RelativeLogits | None = None,
        mix_logits: Mixer | None = None,
        mix_weights: Mixer | None = None,
        return_qkv: bool = False,
    ) -> Tensor | tuple[Tensor, QKV]:
        """Attends from every token to every token.

        Args:
            x: Tokens (B, N, dim).
            partition: Cuts queries, keys and values, each (B, N, dim), into windows, which are
                what B and N mean from here on.
            mask: Boolean, broadcastable to (B, heads, N, N); False hides a key from a query.
            rel_pos: Makes logits that are added, from the queries; see :data:`RelativeLogits`.
            mix_logits: Changes the logits before the mask and the softmax; see
                :func:`mixed_attention`.
            mix_weights: Changes the attention weights after the softmax.
            return_qkv: Returns queries, keys and values as well, each (B, N, dim).

        Returns:
            Tokens (B, N, dim).
        """
        check_tokens(x, self.dim)
        qkv = self.project_in(x)
        if partition is not None:
            qkv = tuple(partition(t) for t in qkv)
        q, k, v = (self._split_heads(t) for t in qkv)
        mixes = mix_logits is not None or mix_weights is not None
        biased = rel_pos is not None or mask is not None
        # Exporters take fused attention with a bias down to steps that do not fit its output, and
        # it has no derivative in forward mode.
        if not (mixes or (biased and is_exporting()) or is_transformed()):
            if rel_pos is not None:
                bias = rel_pos(slice(None))(q)
                mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        else:
            x = mixed_attention(
                q,
                k,
                v,
                mix_logits=mix_logits,
                mix_weights=mix_weights,
                rel_pos=rel_pos,
                mask=mask,
            )
        x = self.project_out(x)
        return (x, qkv) if return_qkv else x

    def weights(
        self,
        qkv: QKV,
        queries: slice = slice(None),
        *,
        mask: Tensor | None = None,
        rel_pos: RelativeLogits | None = None,
        mix_logits: Mixer | None = None,
        mix_weights: Mixer | None = None,
    ) -> Tensor:
        """What some queries multiply the values by, which :meth:`forward` keeps to itself.

        Args:
            qkv: Queries, keys and values as :meth:`forward` returns them, each (B, N, dim).
            queries: Places in N of the queries.
            mask: As in :meth:`forward`.
            rel_pos: As in :meth:`forward`.
            mix_logits: As in :meth:`forward`.
            mix_weights: As in :meth:`forward`.

        Returns:
            Weights (B, heads, n, N).
        """
        q, k = (self._split_heads(t) for t in qkv[:2])
        return attention_weights(
            q[:, :, queries],
            k,
            mix_logits=mix_logits,
            mix_weights=mix_weights,
            relative_logits=None if rel_pos is None else rel_pos(queries),
            mask=mask_of(mask, queries),
        )

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, dim) → (B, heads, N, dim / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, num_heads={self.num_heads}"
