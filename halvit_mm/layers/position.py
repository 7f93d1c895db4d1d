"""Position embeddings that follow the input's size."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Size = tuple[int, int]


def resize_position_embedding(pos: Tensor, source: Size, target: Size) -> Tensor:
    """Resamples a grid of position embeddings bicubically.

    Args:
        pos: (1, h · w, C) for the grid ``source``, row-major, without extra tokens.
        source: Height and width (h, w) of the grid that ``pos`` was learned on, in patches.
        target: Height and width of the grid that is wanted.

    Returns:
        (1, target height · target width, C) in the dtype of ``pos``.
    """
    if source == target:
        return pos
    grid = pos.unflatten(1, source).permute(0, 3, 1, 2)
    # Half precision is too coarse for the bicubic kernel's sums.
    grid = F.interpolate(
        grid if grid.dtype == torch.float64 else grid.float(), size=target, mode="bicubic"
    )
    return grid.flatten(2).transpose(1, 2).to(pos.dtype)


def adapt_position_embedding(pos: Tensor, like: Tensor, grid: Size, num_extra: int) -> Tensor:
    """Fits a checkpoint's position embedding to a model of another size or class token.

    Args:
        pos: The checkpoint's embedding (1, L, C): a square grid, with or without one extra token
            in front.
        like: The model's embedding (1, num_extra + grid height · grid width, C); it gives the
            extra token's embedding where the checkpoint has none.
        grid: The model's grid in patches.
        num_extra: Number of extra tokens of the model (0 or 1).

    Returns:
        The embedding with the shape of ``like``; ``pos`` itself if it cannot be a square grid.
    """
    if pos.shape == like.shape or pos.ndim != 3 or pos.shape[-1] != like.shape[-1]:
        return pos
    length = pos.shape[1]
    if length - grid[0] * grid[1] in (0, 1):
        source = grid
    elif (side := math.isqrt(length)) ** 2 in (length, length - 1):
        source = (side, side)
    else:
        return pos
    source_extra = length - source[0] * source[1]
    patches = resize_position_embedding(pos[:, source_extra:], source, grid)
    if num_extra:
        extra = pos[:, :source_extra] if source_extra else like[:, :num_extra].to(pos)
        patches = torch.cat((extra, patches), dim=1)
    return patches


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
