"""Relative positions: logits that depend on where a key lies, seen from a query.

Each class here maps queries (B, heads, N, head_dim) of a map with N = H · W to logits that
broadcast to (B, heads, N, N).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .position import resize_position_embedding
from .window import Size

#: Buckets of distances along one axis in :class:`ImageRelativePosition`.
_BUCKETS = 7


class ImageRelativePosition(nn.Module):
    """Contextual relative positions that tell near from far, as in Mini-DeiT.

    ``R_ij = q_i / √head_dim · T[:, id(i, j)]`` with one table T, shared by the heads and zero at
    the start, and ``id`` = 7 · bucket of the rows' distance + bucket of the columns'. Distances 0,
    ±1, ±(2 or 3) and ±(4 or more) have a bucket each, so that a table serves maps of every size.

    Source: Wu et al., "Rethinking and Improving Relative Position Encoding for Vision Transformer"
    (iRPE), ICCV 2021, its "product" method on keys, as the reference code of MiniViT uses it.

    Args:
        head_dim: Channels of one head.

    Parameters: ``table (head_dim, 49)``.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(head_dim, _BUCKETS**2))

    def forward(self, q: Tensor, size: Size) -> Tensor:
        """Queries (B, heads, N, head_dim) → logits (B, heads, N, N)."""
        # (B, heads, H, W, row buckets, column buckets)
        logits = (q * q.shape[-1] ** -0.5 @ self.table).unflatten(-1, (_BUCKETS, _BUCKETS))
        logits = logits.unflatten(2, size)
        # A bucket is picked for each key by small products with 0 and 1, one axis at a time: no
        # index of N × N for each layer, and no atomic additions in its backward pass.
        rows, columns = (_one_hot_buckets(length, like=logits) for length in size)
        logits = torch.einsum("bhrcxy,rkx->bhrcky", logits, rows)
        logits = torch.einsum("bhrcky,cly->bhrckl", logits, columns)
        return logits.flatten(4).flatten(2, 3)


def _one_hot_buckets(length: int, *, like: Tensor) -> Tensor:
    """Bucket of each (query, key) pair along one axis, one-hot: (length, length, 7)."""
    position = torch.arange(length, device=like.device)
    distance = position[:, None] - position[None, :]
    near = distance.abs()
    bucket = sum((near >= start).long() for start in (1, 2, 4))
    return F.one_hot(distance.sign() * bucket + 3, _BUCKETS).to(like.dtype)


class WindowRelativePosition(nn.Module):
    """One learned logit for each head and offset within a window, as in Swin.

    Source: Liu et al., "Swin Transformer", ICCV 2021, eq. 4.

    Args:
        window: Height h and width w of the largest window.
        num_heads: Number of heads.

    Parameters: ``table ((2h − 1) · (2w − 1), heads)``. The table of a checkpoint for another window
    is resampled bicubically on load; square windows are assumed of it.
    """

    def __init__(self, window: Size, num_heads: int) -> None:
        super().__init__()
        self.window = window
        self.grid = (2 * window[0] - 1, 2 * window[1] - 1)
        self.table = nn.Parameter(torch.zeros(self.grid[0] * self.grid[1], num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, q: Tensor, size: Size) -> Tensor:
        """Queries of a window of at most the largest size → logits (1, heads, N, N)."""
        rows, columns = (
            _offsets(length, largest, q.device)
            for length, largest in zip(size, self.window, strict=True)
        )
        # (H queries, W queries, H keys, W keys)
        index = rows[:, None, :, None] * self.grid[1] + columns[None, :, None, :]
        index = index.flatten(2).flatten(0, 1)
        return self.table[index].permute(2, 0, 1)[None]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Resamples the table of a checkpoint for another window."""
        name = prefix + "table"
        if (table := state_dict.get(name)) is not None and table.ndim == 2:
            side = math.isqrt(len(table))
            if side**2 == len(table):
                grid = table[None]
                state_dict[name] = resize_position_embedding(grid, (side, side), self.grid)[0]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _offsets(length: int, largest: int, device: torch.device) -> Tensor:
    """Query minus key along one axis, counted from 0 for a window of ``largest``."""
    position = torch.arange(length, device=device)
    return position[:, None] - position[None, :] + largest - 1


class DecomposedRelativePosition(nn.Module):
    """Relative position logits that are a sum of a vertical and a horizontal part.

    ``R(q)_ij = q_i · T_h[y_i − y_j] + q_i · T_w[x_i − x_j]`` with one table per axis, shared by the
    heads and zero at the start. Source: Li et al., "MViTv2", CVPR 2022, eq. 4, as ViTDet uses it.

    Args:
        size: Height and width of the map that the tables are learned on, in tokens. Tables are
            interpolated linearly for maps of another size.
        head_dim: Channels of one head.
    """

    def __init__(self, size: Size, head_dim: int) -> None:
        super().__init__()
        self.table_h = nn.Parameter(torch.zeros(2 * size[0] - 1, head_dim))
        self.table_w = nn.Parameter(torch.zeros(2 * size[1] - 1, head_dim))

    def forward(self, q: Tensor, size: Size) -> Tensor:
        """Queries (B, heads, N, head_dim) of a map with N = H · W → logits (B, heads, N, N)."""
        height, width = size
        grid = q.unflatten(2, size)
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, self._offsets(self.table_h, height))
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, self._offsets(self.table_w, width))
        # (B, heads, H, W, H keys, 1) + (B, heads, H, W, 1, W keys)
        logits = rel_h[..., :, None] + rel_w[..., None, :]
        return logits.flatten(4).flatten(2, 3)

    @staticmethod
    def _offsets(table: Tensor, length: int) -> Tensor:
        """Rows of the table for every (query, key) pair along one axis: (length, length, C)."""
        table = _resize_table(table, 2 * length - 1)
        position = torch.arange(length, device=table.device)
        return table[position[:, None] - position[None, :] + length - 1]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Resamples the tables of a checkpoint for another map size."""
        for name in ("table_h", "table_w"):
            table, loaded = getattr(self, name), state_dict.get(prefix + name)
            if loaded is not None and loaded.shape[-1:] == table.shape[-1:]:
                state_dict[prefix + name] = _resize_table(loaded, len(table))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _resize_table(table: Tensor, length: int) -> Tensor:
    """Resamples (L, C) to (length, C) linearly."""
    if len(table) == length:
        return table
    return F.interpolate(table.t()[None], size=length, mode="linear")[0].t()
