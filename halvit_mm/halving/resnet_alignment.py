"""Brings the bottlenecks of a dense stage as close to each other as their symmetries allow.

In a half-weight stage all 1×1 convolutions are one W (width, out_channels): the first ones are W,
the last ones Wᵀ. Before dense ones are averaged, their rows and columns must mean the same. What is
free (:mod:`.resnet_symmetries`) is chosen such that the average W explains most:

1. Scales: the rows of the first convolutions get one norm. The last ones, transposed, are scaled by
   rows and columns to the same norms of rows and of columns (Sinkhorn and Knopp, "Concerning
   nonnegative matrices and doubly stochastic matrices", 1967, on the squares).
2. Order and signs: by alternating assignment between each convolution and the current average.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.resnet import Bottleneck

from .assignment import assign
from .resnet_symmetries import (
    permute_groups,
    permute_read,
    permute_written,
    scale_first,
    scale_inner,
    scale_last,
)

#: From how many blocks the search starts in turn, and how long each goes on at most.
STARTS = 3
ROUNDS = 20
SMALLEST_GAIN = 1e-4


def average(blocks: Sequence[Bottleneck]) -> Tensor:
    """W (width, out_channels): the mean of the first convolutions and the last ones, transposed.

    Block 0's first convolution counts only if it is as wide as the others. A narrower one reads old
    channels where the others read the stage's, so that its columns mean something else.
    """
    roles = [_last(block) for block in blocks]
    roles += [_first(block) for block in blocks if block.conv1.in_channels == roles[0].shape[1]]
    return torch.stack(roles).mean(dim=0)


def aligned(blocks: Sequence[Bottleneck], *, first_reads_w: bool) -> list[Bottleneck]:
    """Blocks that compute the same in evaluation mode, with 1×1 convolutions close to one W.

    Args:
        blocks: The blocks of a stage, two at least, in float64; they stay as they are.
        first_reads_w: Block 0's first convolution has W's place, too. If its input is narrower, it
            stands in the last columns of W, as old channels come last in a half-weight stage.
    """
    blocks = [copy.deepcopy(block) for block in blocks]
    _normalise(blocks, first_reads_w)
    best, best_score = blocks, -1.0
    for start in blocks[:STARTS]:
        candidate = [copy.deepcopy(block) for block in blocks]
        reference = _last(start)  # its rows' signs are not free, those of the first convolution are
        score = 0.0
        for _ in range(ROUNDS):
            moved = [
                _fit(block, reference, reads_w=bool(i) or first_reads_w)
                for i, block in enumerate(candidate)
            ]
            reference, before = average(candidate), score
            # What agrees adds up in the mean, what does not cancels.
            score = reference.square().sum().item()
            if not any(moved) or score < before * (1 + SMALLEST_GAIN):
                break
        if score > best_score:
            best, best_score = candidate, score
    return best


def _normalise(blocks: Sequence[Bottleneck], first_reads_w: bool) -> None:
    """Gives all 1×1 convolutions the same norms of rows, and of columns where these are free."""
    norms = torch.stack([_first(block).norm(dim=1) for block in blocks[1:]])
    size = norms.square().mean().sqrt()  # W will be as large as the dense weights
    for block, rows in zip(blocks[1:], norms, strict=True):
        scale_first(block, _ratio(size, rows))
    columns = torch.stack([_first(block).square().sum(dim=0) for block in blocks[1:]]).mean(dim=0)
    if first_reads_w:
        rows = _first(blocks[0]).norm(dim=1)
        share = columns[-blocks[0].conv1.in_channels :].sum() / len(rows)
        scale_first(blocks[0], _ratio(share.sqrt(), rows))
    for block in blocks:
        rows, outputs = _balance(_last(block).square(), size.square(), columns)
        scale_inner(block, rows.sqrt())
        # Positive norms' scales are a sign that does not depend on how the signs were.
        scale_last(block, outputs.sqrt() * _signs(block.bn3.weight))


def _balance(squares: Tensor, row: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the rows and of the columns that give these sums, ``row`` to each row."""
    row_factors = torch.ones_like(squares[:, 0])
    for _ in range(200):
        column_factors = _ratio(columns, row_factors @ squares)
        sums = squares @ column_factors
        change = (row_factors * sums / row - 1).abs().max()
        row_factors = _ratio(row, sums)
        if change < 1e-14:
            break
    return row_factors, column_factors


def _fit(block: Bottleneck, reference: Tensor, *, reads_w: bool) -> bool:
    """Orders a block's inner channels and chooses its signs as in W; whether anything changed."""
    gains = []  # of each channel of the block (rows) in the place of each of W
    if reads_w:
        old = reference[:, -block.conv1.in_channels :]
        gains.append((_first(block) @ old.t()).abs())  # the sign is free
    gains.append(_last(block) @ reference.t())
    group_order, orders = _best_orders(gains, block.conv2.groups)
    permute_groups(block, group_order)
    permute_written(block, orders[-1])
    moved = [group_order, orders[-1]]
    if reads_w:
        permute_read(block, orders[0])
        moved.append(orders[0])
        signs = _signs((_first(block) * old).sum(dim=1))
        scale_first(block, signs)
    output_signs = _signs((_last(block) * reference).sum(dim=0))
    scale_last(block, output_signs)
    return (
        any(not torch.equal(order, torch.arange(len(order))) for order in moved)
        or (reads_w and bool((signs < 0).any()))
        or bool((output_signs < 0).any())
    )


def _best_orders(gains: Sequence[Tensor], groups: int) -> tuple[Tensor, list[Tensor]]:
    """The order of the groups, one for all of ``gains``, and then of the channels within them.

    Args:
        gains: Matrices (width, width): what is gained by row i in place j.

    Returns:
        Order of the groups (groups,), and for each of ``gains`` that of the channels (width,).
    """
    size = len(gains[0]) // groups
    total = torch.zeros(groups, groups, dtype=gains[0].dtype)
    within = []  # [gains][group of the block][place] → order of its channels
    for gain in gains:
        pieces = gain.view(groups, size, groups, size).transpose(1, 2)
        orders = [[assign(piece.t()) for piece in row] for row in pieces]
        within.append(orders)
        places = torch.arange(size)
        for i, row in enumerate(orders):
            for j, order in enumerate(row):
                total[i, j] += pieces[i, j][order, places].sum()
    group_order = assign(total.t())
    return group_order, [
        torch.cat([orders[i][j] + size * j for j, i in enumerate(group_order.tolist())])
        for orders in within
    ]


def _first(block: Bottleneck) -> Tensor:
    return block.conv1.weight.detach().flatten(1)


def _last(block: Bottleneck) -> Tensor:
    return block.conv3.weight.detach().flatten(1).t()


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """1 where there is nothing to scale."""
    nothing = (denominator == 0) | (numerator == 0)
    return torch.where(nothing, torch.ones_like(denominator), numerator / denominator)


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values)
