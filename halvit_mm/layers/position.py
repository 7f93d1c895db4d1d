"""Absolute position embeddings that follow the input's size."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import check_shape, check_sides
from .sizes import Size, surely_equal


def resize_position_embedding(pos: Tensor, source: Size, target: Size) -> Tensor:
    """Resamples a grid of position embeddings bicubically.

    Args:
        pos: (1, h · w, C) for the grid ``source``, row-major, without extra tokens.
        source: Height and width (h, w) of the grid that ``pos`` was learned on, in patches.
        target: Height and width of the grid that is wanted.

    Returns:
        (1, target height · target width, C) in the dtype of ``pos``.

    Raises:
        ValueError: ``pos`` has other dimensions, or a side is less than 1.
    """
    check_sides(source=source, target=target)
    check_shape(pos, None, source[0] * source[1], None, what="a position embedding")
    if surely_equal(source, target):
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
