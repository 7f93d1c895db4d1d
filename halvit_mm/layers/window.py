"""Cutting a token map into windows and putting it together again."""

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def window_partition(x: Tensor, window: Size) -> Tensor:
    """Cuts a map into windows, zero-padding it at the bottom and right where it does not divide.

    Args:
        x: Token map (B, H, W, C).
        window: Height h and width w of a window.

    Returns:
        Tokens (B · ⌈H/h⌉ · ⌈W/w⌉, h · w, C), the windows of one image in row-major order.
    """
    (batch, height, width, channels), (h, w) = x.shape, window
    rows, columns = window_grid((height, width), window)
    if (rows * h, columns * w) != (height, width):
        x = F.pad(x, (0, 0, 0, columns * w - width, 0, rows * h - height))
    x = x.reshape(batch, rows, h, columns, w, channels).transpose(2, 3)
    return x.reshape(-1, h * w, channels)


def window_merge(windows: Tensor, window: Size, size: Size) -> Tensor:
    """Inverse of :func:`window_partition`: (B · nW, h · w, C) → map (B, H, W, C) of ``size``."""
    (height, width), (h, w) = size, window
    rows, columns = window_grid(size, window)
    x = windows.reshape(-1, rows, columns, h, w, windows.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows * h, columns * w, windows.shape[-1])[:, :height, :width]


def window_mask(size: Size, window: Size, device: torch.device) -> Tensor | None:
    """Tells real tokens from padding.

    Returns:
        Boolean (nW, h · w), True for the tokens of the map; None if the map divides into windows.
    """
    rows, columns = window_grid(size, window)
    if (rows * window[0], columns * window[1]) == size:
        return None
    ones = torch.ones(1, *size, 1, dtype=torch.bool, device=device)
    return window_partition(ones, window).squeeze(-1)


def window_grid(size: Size, window: Size) -> Size:
    """Number of windows down and across that cover a map."""
    return -(-size[0] // window[0]), -(-size[1] // window[1])
