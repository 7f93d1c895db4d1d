"""Sizes of maps: numbers, or symbols while ``torch.compile`` makes one graph for all sizes."""

import torch
from torch import Tensor
from torch.nn import functional as F

#: Height and width.
Size = tuple[int, int]


def surely_equal(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Whether two sizes are the same; for symbols, whether they are so whatever they stand for.

    A plain ``==`` of symbols would compile one graph for equal sizes and another for the rest.
    Callers must be right, if slower, where equal sizes are taken for different ones.
    """
    if not torch.compiler.is_compiling():
        return a == b
    # Imported here, as it loads sympy.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return all(statically_known_true(i == j) for i, j in zip(a, b, strict=True))


def grid_size(size: Size, cell: Size) -> Size:
    """Number of cells down and across that cover a map."""
    if surely_equal(size, cell):
        return 1, 1
    # Not `-(-side // length)`: compilers do not know what becomes of negative symbols.
    return tuple((side + length - 1) // length for side, length in zip(size, cell, strict=True))


def pad_to_grid(x: Tensor, cell: Size, *, channels_last: bool = False) -> Tensor:
    """Zero-pads maps (B, C, H, W) or (B, H, W, C) at the bottom and right to whole cells."""
    size = tuple(x.shape[1:3] if channels_last else x.shape[2:])
    rows, columns = grid_size(size, cell)
    return fit(x, (rows * cell[0], columns * cell[1]), channels_last=channels_last)


def fit(x: Tensor, size: Size, *, channels_last: bool = False) -> Tensor:
    """Zero-pads or cuts maps (B, C, H, W) or (B, H, W, C) at the bottom and right to ``size``."""
    height, width = x.shape[1:3] if channels_last else x.shape[2:]
    if surely_equal((height, width), size):
        return x  # padding by nothing would copy
    # Cutting by slices instead would ask a compiler whether what is left is contiguous.
    pad = (0, size[1] - width, 0, size[0] - height)
    return F.pad(x, (0, 0, *pad) if channels_last else pad)
