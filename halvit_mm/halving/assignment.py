"""Which channels, units or heads of one layer stand in the places of another's."""

import torch
from torch import Tensor


def assign(similarity: Tensor) -> Tensor:
    """For each row the column that it gets, each one once, so that the sum is largest.

    Args:
        similarity: (n, n).

    Returns:
        Columns (n,).
    """
    from scipy.optimize import linear_sum_assignment  # here, as scipy takes long to import

    return torch.from_numpy(linear_sum_assignment(similarity.numpy(), maximize=True)[1])
