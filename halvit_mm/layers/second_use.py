"""What the second use of a weight may have for itself: small corrections that leave it near half.

Ours, not in the paper and off by default. A dense model that is halved has two weights where there
is one now; scales and a few directions of its own let the second use keep some of the difference.
"""

import torch
from torch import Tensor, nn

from .checks import check_flags, is_whole
from .linear import linear


class SecondUse(nn.Module):
    """``Wᵀ diag(scale) x + up down x + bias`` instead of ``Wᵀ x + bias``; it does not own W.

    It starts as ``Wᵀ x + bias``.

    Args:
        rows: Rows of W, which its transpose reads.
        cols: Columns of W, which its transpose writes.
        scale: Scales each row of W.
        rank: Rank of the additional matrix; 0 leaves it out.

    Parameters: ``scale (rows)``, ``down (rank, rows)``, ``up (cols, rank)``; None where not used.
    """

    def __init__(self, rows: int, cols: int, *, scale: bool, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.scale = nn.Parameter(torch.ones(rows)) if scale else None
        self.down = nn.Parameter(torch.empty(rank, rows)) if rank else None
        self.up = nn.Parameter(torch.zeros(cols, rank)) if rank else None
        if rank:
            nn.init.trunc_normal_(self.down, std=rows**-0.5)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(…, rows) → (…, cols), with W (rows, cols)."""
        y = linear(x if self.scale is None else x * self.scale, weight.t(), bias)
        return linear(linear(x, self.down), self.up) + y if self.rank else y

    def extra_repr(self) -> str:
        return f"scale={self.scale is not None}, rank={self.rank}"


def make_second_use(rows: int, cols: int, *, scale: bool, rank: int) -> SecondUse | None:
    """The corrections that are asked for; None where there are none.

    Raises:
        ValueError: The rank is no number, negative, or as large as that of W.
    """
    check_flags(second_scale=scale)
    if not is_whole(rank) or not 0 <= rank < min(rows, cols):
        raise ValueError(
            f"second_rank={rank} is not between 0 and {min(rows, cols) - 1}, one less than the "
            "weight's own rank"
        )
    return SecondUse(rows, cols, scale=scale, rank=rank) if scale or rank else None
