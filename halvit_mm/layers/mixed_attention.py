"""Attention that mixes its maps across heads, a few maps at a time.

Fused attention offers no place between logits, softmax and values. Written out for a whole batch,
a layer makes half a dozen tensors of B · heads · N · N elements and keeps three of them for the
backward pass. Here a piece of the batch goes from its logits to its output while its maps lie in
the cache, and the backward pass makes them anew, so that memory grows with N and not with N².
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .linear import is_transformed

#: Changes maps (B, heads, n, N) of some of the queries.
Mixer = Callable[[Tensor], Tensor]
#: For some of the queries, named by their places in N: turns them (B, heads, n, head_dim) into
#: logits that broadcast to (B, heads, n, N).
RelativeLogits = Callable[[slice], Callable[[Tensor], Tensor]]

#: Elements of the maps that are made at once: on the CPU what the second-level cache of a core
#: holds, for each thread; on a GPU enough to keep it busy.
CPU_ELEMENTS = 2**18
GPU_ELEMENTS = 2**28


def mixed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mix_logits: Mixer | None = None,
    mix_weights: Mixer | None = None,
    rel_pos: RelativeLogits | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """``mix_weights(softmax(mix_logits(q kᵀ / √head_dim + R))) v``.

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys, like the queries.
        v: Values, like the queries.
        mix_logits: Changes the logits before the mask and the softmax; no sample and no query may
            influence another.
        mix_weights: The same for the attention weights.
        rel_pos: Makes the logits R that are added.
        mask: Boolean (B, 1 or heads, 1 or N, N); False hides a key from a query.

    Returns:
        Tokens (B, N, heads · head_dim).
    """

    def attend(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        relative_logits: Callable[[Tensor], Tensor] | None,
        mask: Tensor | None,
    ) -> Tensor:
        weights = attention_weights(
            q,
            k,
            mix_logits=mix_logits,
            mix_weights=mix_weights,
            relative_logits=relative_logits,
            mask=mask,
        )
        return (weights @ v).transpose(1, 2).flatten(2)

    run = attend
    if torch.is_grad_enabled() and not is_transformed():

        def run(*piece) -> Tensor:
            return checkpoint(attend, *piece, use_reentrant=False, preserve_rng_state=False)

    samples, queries = _pieces(q)
    by_rows = []
    for rows in queries:
        relative_logits = None if rel_pos is None else rel_pos(rows)
        masks = mask_of(mask, rows)
        outs = [
            run(q[i, :, rows], k[i], v[i], relative_logits, masks if masks is None else masks[i])
            for i in samples
        ]
        by_rows.append(_cat(outs, dim=0))
    return _cat(by_rows, dim=1)


def attention_weights(
    q: Tensor,
    k: Tensor,
    *,
    mix_logits: Mixer | None = None,
    mix_weights: Mixer | None = None,
    relative_logits: Callable[[Tensor], Tensor] | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """``mix_weights(softmax(mix_logits(q kᵀ / √head_dim + R)))`` of some queries.

    Args:
        q: Some of the queries (B, heads, n, head_dim).
        k: All keys (B, heads, N, head_dim).
        mix_logits: As in :func:`mixed_attention`.
        mix_weights: As in :func:`mixed_attention`.
        relative_logits: Makes the logits R of these queries.
        mask: Boolean, broadcastable to (B, heads, n, N); False hides a key from a query.

    Returns:
        What the values are multiplied by (B, heads, n, N).
    """
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if relative_logits is not None:
        logits += relative_logits(q)  # in place: no gradient needs the product itself
    if mix_logits is not None:
        logits = mix_logits(logits)
    if mask is not None:
        logits = torch.where(mask, logits, float("-inf"))
    weights = logits.softmax(dim=-1)
    return weights if mix_weights is None else mix_weights(weights)


def mask_of(mask: Tensor | None, queries: slice) -> Tensor | None:
    """The rows of a mask (…, 1 or N, N) that belong to some of the queries."""
    return mask if mask is None or mask.shape[-2] == 1 else mask[:, :, queries]


def _pieces(q: Tensor) -> tuple[list[slice], list[slice]]:
    """Samples and queries of each piece: whole maps of some samples, or rows of the maps of one."""
    batch, heads, length, _ = q.shape
    # Compilers save memory traffic in their own ways, and a trace serves other batches as well.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return [slice(None)], [slice(None)]
    on_cpu = q.device.type == "cpu"
    elements = CPU_ELEMENTS * torch.get_num_threads() if on_cpu else GPU_ELEMENTS
    samples = max(1, elements // max(1, heads * length**2))
    queries = max(1, elements // max(1, heads * length))
    return _slices(batch, samples), _slices(length, queries)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, length)) for i in range(0, max(length, 1), step)]


def _cat(tensors: list[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim)
