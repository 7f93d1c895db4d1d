"""Where the layers of a vision transformer look: attention maps and attention rollout.

Every map here is a sum over queries, ``Σ_i c_i w_ij``, of what the queries i take of the values j.
One query alone, all of them, and rollout differ in the coefficients c only, so that no layer's
weights need to exist at once: they are made for some queries at a time and added up.
"""

from collections.abc import Callable, Collection
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..layers import LayerAttention, LayerFeatures
from ..layers.attention import QKV
from .activations import check_layers

#: ``"cls"``: the class token. ``"mean"``: all queries. (y, x): the token at a pixel of the images.
Query = Literal["cls", "mean"] | tuple[float, float]

#: Elements of the weights that are made at once; about four tensors of that size live together.
ELEMENTS = 2**23


@torch.no_grad()
def attention_maps(
    backbone: nn.Module,
    images: Tensor,
    layers: Collection[int] | None = None,
    *,
    query: Query = "mean",
    rollout: bool = False,
) -> dict[int, Tensor]:
    """What the layers of a backbone look at.

    The weights are those that multiply the values: relative positions, masks and the mixing of
    heads are in them. Windows are put together to a map of the whole image.

    Args:
        backbone: One with attention; it runs in the mode it is in.
        images: What the backbone takes (B, C, height, width). Queries, keys and values of all the
            layers asked for are in memory together, their weights never are.
        layers: Numbers of layers from 0; all of them by default, for rollout the last.
        query: Who looks. A single query gives its weights, which add up to 1 over all tokens before
            heads are mixed. ``"mean"`` gives the weights a place gets from all queries, in units of
            what it would get if all of them looked everywhere alike.
        rollout: Follows attention through all layers down to the image instead, with half of each
            token coming by the residual connection; for backbones of one map size. Heads are
            averaged, and where they are mixed, what is negative then is left out. Source: Abnar and
            Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.

    Returns:
        For each layer maps (B, heads, H, W) with one value a token; one head for rollout.

    Raises:
        UserError: The backbone has no attention, no such layers, no class token where one is asked
            for, or maps of several sizes where rollout is asked for.
    """
    stack = attention_layers(backbone, tuple(images.shape[2:]))
    extra = getattr(backbone, "num_extra_tokens", 0)
    if rollout and len({layer.layout.size for layer in stack}) > 1:
        raise UserError(
            f"--rollout: {type(backbone).__name__} merges tokens between its stages, so attention "
            "cannot be followed through them; leave --rollout out"
        )
    if layers is None:
        layers = [-1] if rollout else range(len(stack))
    wanted = check_layers(layers, len(stack))
    needed = range(max(wanted) + 1) if rollout else wanted
    features = backbone.forward_features(images, needed)[1]

    maps = {}
    for i in wanted:
        by = _coefficients(query, stack[i], extra, images)
        if rollout:
            looked_at = _rolled_out(stack[: i + 1], features, by)
        else:
            looked_at = weighted_by(by, stack[i], features[i].qkv)
        maps[i] = looked_at[:, :, extra:].unflatten(2, stack[i].layout.size)
    return maps


def attention_layers(backbone: nn.Module, size: tuple[int, int]) -> list[LayerAttention]:
    """How each layer of a backbone attends, in images of a height and width in pixels.

    Raises:
        UserError: The backbone has no attention.
    """
    if not hasattr(backbone, "attention_layers"):
        raise UserError(
            f"{type(backbone).__name__} has no attention to look at; choose --what features or "
            "--what gradcam, which every backbone has"
        )
    return backbone.attention_layers(size)


def weighted_by(
    by: Tensor,
    layer: LayerAttention,
    qkv: QKV,
    *,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Sums the rows of a layer's weights: ``Σ_i by_i w_ij``.

    Args:
        by: A coefficient of each query (B, N), class token included.
        layer: The layer, for the map's size.
        qkv: The layer's :attr:`~halvit_mm.layers.LayerFeatures.qkv`.
        change: What becomes of the weights (windows, heads, n, tokens of a window) first.

    Returns:
        A value for each token (B, heads, N).
    """
    # Padding gets 0, so that its queries count nothing.
    by = layer.layout.partition(by[..., None])[..., 0]
    windows, length = by.shape
    step = max(1, ELEMENTS // (windows * layer.num_heads * length))
    total = by.new_zeros(windows, 1, length)
    for start in range(0, length, step):
        queries = slice(start, start + step)
        if by[:, queries].any():
            weights = layer.weights(qkv, queries)
            weights = weights if change is None else change(weights)
            total = total + (by[:, None, None, queries] @ weights)[:, :, 0]
    return layer.layout.merge(total.transpose(1, 2)).transpose(1, 2)


def _coefficients(query: Query, layer: LayerAttention, extra: int, images: Tensor) -> Tensor:
    """How much each query counts (B, N)."""
    height, width = layer.layout.size
    by = images.new_zeros(len(images), extra + height * width)
    if query == "mean":
        by += 1
    elif query == "cls":
        if not extra:
            raise UserError(
                "--query cls: this backbone has no class token; give mean or a place Y,X"
            )
        by[:, 0] = 1
    else:
        if not all(0 <= at < side for at, side in zip(query, images.shape[2:], strict=True)):
            raise UserError(f"--query {query[0]:g},{query[1]:g}: this place is not in the image")
        row, column = (int(at / layer.stride) for at in query)
        by[:, extra + row * width + column] = 1
    return by


def _rolled_out(
    stack: list[LayerAttention], features: dict[int, LayerFeatures], by: Tensor
) -> Tensor:
    """Coefficients of the last layer's queries → what they come to at the input (B, 1, N).

    The matrix that rollout multiplies up is met from its left by a vector, ``c ← c (A + I) / 2``
    from the last layer to the first, so that it never exists.
    """
    for i in reversed(range(len(stack))):
        moved = weighted_by(by, stack[i], features[i].qkv, change=_one_positive_head)
        by = (by + moved[:, 0]) / 2
    return by[:, None]


def _one_positive_head(weights: Tensor) -> Tensor:
    """The mean over heads (…, 1, n, N), without what is negative, and adding up to 1."""
    mean = weights.mean(dim=1, keepdim=True).clamp(min=0)
    return mean / mean.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)
