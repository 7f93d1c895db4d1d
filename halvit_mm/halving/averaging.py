"""Averages of dense weights, as the start of a layer that has fewer of them.

Two kinds, which may come together: the layers that one block of MiniViT serves become one layer,
and a layer's two uses of a weight, W1 and W2ᵀ, become HaLViT's one W. With ``align`` what dense
layers leave free (:mod:`.symmetries`) is chosen first such that what is averaged lies as near to
each other as it can; the choices are made on copies, so that the dense model stays as it is.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor

from ..layers import DenseAttention, DenseFFN, SecondUse, SignedGELU, TiedAttention, TiedFFN
from .assignment import assign
from .symmetries import (
    change_query_key_basis,
    change_value_basis,
    permute_heads,
    permute_hidden_units,
)

_ROUNDS = 100  # of alternating between queries' and values' bases
_ENOUGH = 1e-12  # relative gain of a round at which alternating ends


@torch.no_grad()
def average_ffn(half: TiedFFN | DenseFFN, dense: Sequence[DenseFFN], *, align: bool) -> None:
    """Sets a feed-forward's weights to averages of dense ones.

    With ``align``, hidden units of several layers are matched one by one. A layer whose W has
    signs (:class:`~halvit_mm.layers.SignedGELU`) gets those units of which W1 and W2ᵀ agree least
    where the signs are negative.

    Args:
        half: The layer to set.
        dense: The layers that it stands for, of its width.
        align: Resolves symmetries first.
    """
    layers = [deepcopy(layer).double() for layer in dense]
    if align:
        for layer in layers[1:]:
            permute_hidden_units(layer, _matching_units(layer, layers[0]))
    mean = _mean(layers)
    if isinstance(half, DenseFFN):
        half.load_state_dict(mean.state_dict())
        return
    signs = torch.ones_like(mean.fc1.bias)
    if isinstance(half.act, SignedGELU):
        signs = half.act.signs.double()
        if align:
            agreement = (mean.fc1.weight * mean.fc2.weight.t()).sum(1)
            order = torch.empty_like(agreement, dtype=torch.long)
            # The best places, those with +, to the units that agree best.
            order[signs.argsort(descending=True, stable=True)] = agreement.argsort(descending=True)
            permute_hidden_units(mean, order)
    second = mean.fc2.weight.t() * signs[:, None]
    half.weight.copy_(_tie(mean.fc1.weight, second, half.second, align=align))
    half.bias_in.copy_(mean.fc1.bias)
    half.bias_out.copy_(mean.fc2.bias)


@torch.no_grad()
def average_attention(
    half: TiedAttention | DenseAttention, dense: Sequence[DenseAttention], *, align: bool
) -> list[Tensor]:
    """Sets attention's weights to averages of dense ones.

    With ``align``, heads of several layers are matched and rotated onto those of the first. Tied
    attention has W_q for queries and output and W_kv for keys and values: each head's bases for
    queries and keys and for values are then turned, and scaled against each other, such that the
    two weights of each pair agree best.

    Args:
        half: The layer to set.
        dense: The layers that it stands for, of its width and heads.
        align: Resolves symmetries first.

    Returns:
        For each dense layer the order of its heads in the new one (heads).
    """
    layers = [deepcopy(layer).double() for layer in dense]
    orders = [torch.arange(half.num_heads) for _ in layers]
    if align:
        for i, layer in enumerate(layers[1:], 1):
            orders[i] = _match_heads(layer, layers[0])
    mean = _mean(layers)
    if isinstance(half, DenseAttention):
        half.load_state_dict(mean.state_dict())
        return orders
    if align:
        _turn_towards_transposes(mean)
    queries, keys, values = mean.qkv.weight.chunk(3)
    w_q = _tie(queries, mean.proj.weight.t(), half.second_out, align=align)
    w_kv = _tie(keys, values.t(), half.second_values, align=align)
    half.weight.copy_(torch.cat((w_q, w_kv)))
    half.bias_qkv.copy_(mean.qkv.bias)
    half.bias_out.copy_(mean.proj.bias)
    return orders


def _mean(layers: Sequence[DenseFFN | DenseAttention]) -> DenseFFN | DenseAttention:
    mean = deepcopy(layers[0])
    for parameter, *others in zip(*(layer.parameters() for layer in (mean, *layers)), strict=True):
        parameter.copy_(torch.stack(others).mean(0))
    return mean


def _tie(first: Tensor, second: Tensor, use: SecondUse | None, *, align: bool) -> Tensor:
    """The one weight for two, both (rows, cols): the second one is transposed in its use.

    With ``align``, corrections take over what they can of the second weight: a scale of each row
    what remains when both rows become multiples of one, and the additional matrix the largest part
    of the rest.
    """
    if not align or use is None:
        return (first + second) / 2
    if use.scale is None:
        weight, scaled = (first + second) / 2, (first + second) / 2
    else:
        # The best multiples of one row for a pair of rows: their first singular vector.
        pairs = torch.stack((first, second), dim=1)
        row = torch.linalg.svd(pairs, full_matrices=False)[2][:, 0]
        factors = (pairs @ row[..., None]).squeeze(-1)
        # A row that the first use lacks would need an endless scale.
        floor = 0.1 * factors.abs().amax(1)
        used = torch.where(factors[:, 0] < 0, -1.0, 1.0) * factors[:, 0].abs().maximum(floor)
        weight = used[:, None] * row
        scale = factors[:, 1] / torch.where(used == 0, 1.0, used)
        use.scale.copy_(scale)
        scaled = scale[:, None] * weight
    if use.rank:
        left, sizes, right = torch.linalg.svd((second - scaled).t(), full_matrices=False)
        roots = sizes[: use.rank].sqrt()
        use.up.copy_(left[:, : use.rank] * roots)
        use.down.copy_(roots[:, None] * right[: use.rank])
    return weight


def _matching_units(ffn: DenseFFN, reference: DenseFFN) -> Tensor:
    """The order of hidden units in which a layer is most like another."""
    similarity = _units(reference) @ _units(ffn).t()
    return assign(similarity)


def _units(ffn: DenseFFN) -> Tensor:
    """All weights of each hidden unit (hidden_dim, 2 dim + 1)."""
    return torch.cat((ffn.fc1.weight, ffn.fc1.bias[:, None], ffn.fc2.weight.t()), dim=1)


def _match_heads(attn: DenseAttention, reference: DenseAttention) -> Tensor:
    """Orders and rotates heads like those of another layer; returns the order."""
    ours, theirs = _heads(attn), _heads(reference)
    # What rotations could reach for each pair of heads (theirs, ours).
    similarity = sum(
        torch.linalg.svdvals(torch.einsum("aic,bjc->abij", b, a)).sum(-1)
        for a, b in zip(ours, theirs, strict=True)
    )
    order = assign(similarity)
    permute_heads(attn, order)
    for change, a, b in zip(
        (change_query_key_basis, change_value_basis), _heads(attn), theirs, strict=True
    ):
        change(attn, _rotation(b @ a.mT))
    return order


def _heads(attn: DenseAttention) -> tuple[Tensor, Tensor]:
    """All weights in each head's query and key basis, and in its value basis.

    Returns:
        (heads, head_dim, 2 dim + 2) and (heads, head_dim, 2 dim + 1).
    """
    weight = torch.cat((attn.qkv.weight, attn.qkv.bias[:, None]), dim=1)
    queries, keys, values = weight.unflatten(0, (3, attn.num_heads, -1))
    readers = attn.proj.weight.t().unflatten(0, (attn.num_heads, -1))
    return torch.cat((queries, keys), dim=-1), torch.cat((values, readers), dim=-1)


def _turn_towards_transposes(attn: DenseAttention) -> None:
    """Turns the bases of heads such that W_q is near W_oᵀ and W_k near W_vᵀ.

    With rotations A of queries and keys and B of values, one of each for a head, the inner product
    of what shall agree is ``Σ_h tr(A_h W_q W_o B_hᵀ) + Σ_hg tr(A_h W_k B_g W_v)``. It is linear in
    A and in B, so that each in turn is the solution of orthogonal Procrustes problems.
    """
    heads = attn.num_heads
    queries, keys, values = attn.qkv.weight.chunk(3)
    out = attn.proj.weight
    # Scales are free as well: A may grow as B shrinks. Half-way between what either pair asks for.
    ratio = (out.norm() * keys.norm() / (queries.norm() * values.norm())).sqrt()
    eye = torch.eye(attn.dim // heads, dtype=out.dtype).expand(heads, -1, -1)
    if ratio.isfinite() and ratio > 0:
        change_query_key_basis(attn, ratio.sqrt() * eye)
        change_value_basis(attn, ratio.sqrt() * eye)
    queries, keys, values = (w.unflatten(0, (heads, -1)) for w in attn.qkv.weight.chunk(3))
    out = attn.proj.weight.unflatten(1, (heads, -1)).transpose(0, 1)
    products = queries @ out  # (heads, head_dim, head_dim)
    # Blocks [h, g] of W_k, rows of head h and columns of head g, and of W_v.
    keys = keys.unflatten(2, (heads, -1)).transpose(1, 2)
    values = values.unflatten(2, (heads, -1)).transpose(1, 2)

    turn_queries, turn_values, agreement = eye, eye, -float("inf")
    for _ in range(_ROUNDS):
        crossed = torch.einsum("hgij,gjk,ghkl->hil", keys, turn_values, values)
        turn_queries = _rotation((products @ turn_values.mT + crossed).mT)
        crossed = torch.einsum("ghij,hjk,hgkl->gil", values, turn_queries, keys)
        target = turn_queries @ products + crossed.mT
        turn_values = _rotation(target)
        before, agreement = agreement, float((turn_values * target).sum())
        if agreement - before <= _ENOUGH * abs(agreement):
            break
    change_query_key_basis(attn, turn_queries)
    change_value_basis(attn, turn_values)


def _rotation(target: Tensor) -> Tensor:
    """The orthogonal matrices nearest to those given (…, n, n)."""
    left, _, right = torch.linalg.svd(target)
    return left @ right
