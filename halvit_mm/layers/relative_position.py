"""Relative positions: logits that depend on where a key lies, seen from a query.

Each class here maps queries (B, heads, N, head_dim) of a map with N = H · W to logits that
broadcast to (B, heads, N, N). ``for_queries`` does so for some of the queries, so that attention
need not make all logits at once.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_shape, check_sides, check_whole
from .linear import check_width, runs_as_written
from .position import resize_position_embedding
from .sizes import Size, surely_equal

#: Turns queries (B, heads, n, head_dim) into logits that broadcast to (B, heads, n, N).
Logits = Callable[[Tensor], Tensor]

#: Buckets of distances along one axis in :class:`ImageRelativePosition`.
_BUCKETS = 7


class RelativePosition(nn.Module):
    """What the kinds of relative positions have in common."""

    def for_queries(self, size: Size, queries: slice) -> Logits:
        """What turns some queries into logits.

        Args:
            size: Height H and width W of the map.
            queries: Places of the queries in N = H · W.

        Returns:
            A function of these queries (B, heads, n, head_dim).
        """
        raise NotImplementedError

    def forward(self, q: Tensor, size: Size) -> Tensor:
        """All queries (B, heads, N, head_dim) → logits that broadcast to (B, heads, N, N).

        Raises:
            ValueError: The queries are not those of a map of ``size``.
        """
        check_sides(size=size)
        check_shape(q, None, None, size[0] * size[1], None, what="queries")
        return self.for_queries(size, slice(None))(q)


class ImageRelativePosition(RelativePosition):
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
        check_whole(head_dim=head_dim)
        self.table = nn.Parameter(torch.zeros(head_dim, _BUCKETS**2))

    def for_queries(self, size: Size, queries: slice) -> Logits:
        rows, columns = (_buckets(length, self.table.device) for length in size)
        index = _pairs(_BUCKETS * rows, columns, queries)
        table = self.table  # that of now, as the backward pass may compute the logits again

        def logits(q: Tensor) -> Tensor:
            _check_queries(q, table.shape[0])
            by_bucket = q * q.shape[-1] ** -0.5 @ table  # (B, heads, n, 49)
            return by_bucket.gather(-1, index.expand(*q.shape[:2], -1, -1))

        return logits


def _check_queries(q: Tensor, head_dim: int) -> None:
    if runs_as_written():
        check_width(q, head_dim)


def _buckets(length: int, device: torch.device) -> Tensor:
    """Bucket of each (query, key) pair along one axis (length, length), from 0 to 6."""
    distance = _distances(length, device)
    near = distance.abs()
    bucket = sum((near >= start).long() for start in (1, 2, 4))
    return distance.sign() * bucket + 3


class WindowRelativePosition(RelativePosition):
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
        check_sides(window=window)
        check_whole(num_heads=num_heads)
        self.window = window
        self.grid = (2 * window[0] - 1, 2 * window[1] - 1)
        self.table = nn.Parameter(torch.zeros(self.grid[0] * self.grid[1], num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def for_queries(self, size: Size, queries: slice) -> Logits:
        if runs_as_written() and (size[0] > self.window[0] or size[1] > self.window[1]):
            # Some offsets would be read from the other end of the table.
            raise ValueError(f"a map of {tuple(size)} is larger than the window {self.window}")
        rows, columns = (
            _distances(length, self.table.device) + largest - 1
            for length, largest in zip(size, self.window, strict=True)
        )
        index = _pairs(self.grid[1] * rows, columns, queries)
        logits = self.table[index].permute(2, 0, 1)[None]  # (1, heads, n, N), for all windows
        return lambda q: logits

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Resamples the table of a checkpoint for another window."""
        name = prefix + "table"
        if (table := state_dict.get(name)) is not None and table.ndim == 2:
            side = math.isqrt(len(table))
            if side**2 == len(table):
                grid = table[None]
                state_dict[name] = resize_position_embedding(grid, (side, side), self.grid)[0]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _distances(length: int, device: torch.device) -> Tensor:
    """Query minus key along one axis (length, length)."""
    position = torch.arange(length, device=device)
    return position[:, None] - position[None, :]


def _places(size: Size, queries: slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of the tokens ``queries`` of a map, (n) each."""
    # Not by `//` and `%`, which ONNX's exporter cannot do with a symbol, nor by a difference in the
    # place of `%`, which inductor takes for a number that may be negative.
    row = torch.arange(size[0], device=device)[:, None].expand(size).flatten()
    column = torch.arange(size[1], device=device).expand(size).flatten()
    return row[queries], column[queries]


def _pairs(rows: Tensor, columns: Tensor, queries: slice) -> Tensor:
    """Sum of what pairs of rows (H, H) and of columns (W, W) have, for (query, key) (n, H · W)."""
    row, column = _places((rows.shape[0], columns.shape[0]), queries, rows.device)
    rows, columns = rows[row], columns[column]
    return (rows[:, :, None] + columns[:, None, :]).flatten(1)


class DecomposedRelativePosition(RelativePosition):
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
        check_sides(size=size)
        check_whole(head_dim=head_dim)
        self.table_h = nn.Parameter(torch.zeros(2 * size[0] - 1, head_dim))
        self.table_w = nn.Parameter(torch.zeros(2 * size[1] - 1, head_dim))

    def for_queries(self, size: Size, queries: slice) -> Logits:
        height, width = size
        table_h, table_w = (
            _resize_table(table, 2 * length - 1)
            for table, length in ((self.table_h, height), (self.table_w, width))
        )
        # Place in the table of each (query, key) pair along either axis: (n, H) and (n, W).
        row, column = _places(size, queries, table_h.device)
        rows = (_distances(height, row.device) + height - 1)[row]
        columns = (_distances(width, row.device) + width - 1)[column]

        def logits(q: Tensor) -> Tensor:
            _check_queries(q, table_h.shape[1])
            rel_h = (q @ table_h.t()).gather(-1, rows.expand(*q.shape[:2], -1, -1))
            rel_w = (q @ table_w.t()).gather(-1, columns.expand(*q.shape[:2], -1, -1))
            # (B, heads, n, H keys, 1) + (B, heads, n, 1, W keys)
            return (rel_h[..., :, None] + rel_w[..., None, :]).flatten(3)

        return logits

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Resamples the tables of a checkpoint for another map size."""
        for name in ("table_h", "table_w"):
            table, loaded = getattr(self, name), state_dict.get(prefix + name)
            if loaded is not None and loaded.shape[-1:] == table.shape[-1:]:
                state_dict[prefix + name] = _resize_table(loaded, len(table))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _resize_table(table: Tensor, length: int) -> Tensor:
    """Resamples (L, C) to (length, C) linearly."""
    if surely_equal((table.shape[0],), (length,)):
        return table
    return F.interpolate(table.t()[None], size=length, mode="linear")[0].t()
