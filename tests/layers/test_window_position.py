"""Windows, position embeddings and what the block makes of them."""

import pytest
import torch
from torch.nn import functional as F

from halvit_mm.layers import (
    DecomposedRelativePosition,
    LayerNorm2d,
    TransformerBlock,
    adapt_position_embedding,
    resize_position_embedding,
    window_mask,
    window_merge,
    window_partition,
)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1), (2, 9)])
@pytest.mark.parametrize("window", [(2, 3), (4, 4), (1, 1)])
def test_merge_inverts_partition(size, window):
    x = torch.randn(2, *size, 3)
    windows = window_partition(x, window)
    assert windows.shape[1] == window[0] * window[1]
    assert torch.equal(window_merge(windows, window, size), x)


def test_partition_is_row_major():
    x = torch.arange(24).reshape(1, 4, 6, 1)
    windows = window_partition(x, (2, 3))[..., 0]
    assert windows.tolist()[:2] == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]


def test_mask_counts_real_tokens():
    assert window_mask((4, 6), (2, 3), torch.device("cpu")) is None
    mask = window_mask((3, 4), (2, 3), torch.device("cpu"))
    assert mask.sum(1).tolist() == [6, 2, 3, 1]


def block(**options) -> TransformerBlock:
    torch.manual_seed(0)
    made = TransformerBlock(12, 3, 24, **options).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize("rel_pos", [False, True])
def test_window_as_large_as_the_map_is_global(rel_pos):
    size = (4, 5)
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    options = dict(rel_pos_size=size if rel_pos else None)
    whole = block(**options)
    for window in [(4, 5), (9, 9)]:
        windowed = block(**options, window=window)
        windowed.load_state_dict(whole.state_dict())
        torch.testing.assert_close(windowed(x, size), whole(x, size), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rel_pos", [False, True])
def test_windows_attend_within_themselves_and_ignore_padding(rel_pos):
    """A 3 × 5 map in 2 × 2 windows equals attention on each window's real tokens alone."""
    size, window = (3, 5), (2, 2)
    windowed = block(window=window, rel_pos_size=window if rel_pos else None)
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    expected = torch.empty_like(x)
    for top in range(0, 3, 2):
        for left in range(0, 5, 2):
            part = x[:, top : top + 2, left : left + 2]
            part_size = tuple(part.shape[1:3])
            # `_attend` alone would interpolate the tables of a smaller window: cut them instead.
            alone = block(rel_pos_size=part_size if rel_pos else None)
            state = windowed.state_dict()
            for axis, length in zip("hw", part_size, strict=True):
                if rel_pos:
                    name = f"rel_pos.table_{axis}"
                    state[name] = state[name][2 - length : 1 + length]
            alone.load_state_dict(state)
            out = alone(part.flatten(1, 2), part_size)
            expected[:, top : top + 2, left : left + 2] = out.unflatten(1, part_size)
    torch.testing.assert_close(
        windowed(x.flatten(1, 2), size), expected.flatten(1, 2), rtol=0, atol=1e-10
    )


def test_relative_position_is_the_sum_over_axes():
    size, head_dim = (3, 4), 5
    rel_pos = DecomposedRelativePosition(size, head_dim).double()
    torch.nn.init.normal_(rel_pos.table_h)
    torch.nn.init.normal_(rel_pos.table_w)
    q = torch.randn(2, 3, 12, head_dim, dtype=torch.float64)
    logits = rel_pos(q, size)
    expected = torch.empty(2, 3, 12, 12, dtype=torch.float64)
    for i in range(12):
        for j in range(12):
            (yi, xi), (yj, xj) = divmod(i, 4), divmod(j, 4)
            row = rel_pos.table_h[yi - yj + 2] + rel_pos.table_w[xi - xj + 3]
            expected[:, :, i, j] = q[:, :, i] @ row
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    assert rel_pos(q[:, :, :6], (2, 3)).shape == (2, 3, 6, 6)


def test_relative_position_tables_are_resized_on_load():
    large, small = DecomposedRelativePosition((14, 14), 4), DecomposedRelativePosition((7, 5), 4)
    torch.nn.init.normal_(large.table_h)
    small.load_state_dict(large.state_dict())
    assert small.table_h.shape == (13, 4)
    expected = F.interpolate(large.table_h.T[None], size=13, mode="linear")[0].T
    torch.testing.assert_close(small.table_h, expected)


def test_position_embedding_resizes_a_linear_ramp_to_a_ramp():
    """Values must follow the axes: rows stay rows and columns stay columns."""
    ramp = torch.stack(
        torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij"), dim=-1
    ).reshape(1, 80, 2)
    grid = resize_position_embedding(ramp, (8, 10), (16, 5)).reshape(16, 5, 2)
    inner = grid[4:12, 1:4]
    assert (inner[:, :, 0].diff(dim=0) - 0.5).abs().max() < 0.1
    assert (inner[:, :, 1].diff(dim=1) - 2.0).abs().max() < 0.2
    assert inner[:, :, 0].diff(dim=1).abs().max() < 1e-5
    assert resize_position_embedding(ramp, (8, 10), (8, 10)) is ramp


@pytest.mark.parametrize("source_extra", [0, 1])
@pytest.mark.parametrize("num_extra", [0, 1])
@pytest.mark.parametrize("source_side", [4, 6])
def test_position_embedding_adapts_to_grid_and_class_token(source_extra, num_extra, source_side):
    pos = torch.randn(1, source_extra + source_side**2, 8)
    like = torch.randn(1, num_extra + 24, 8)
    out = adapt_position_embedding(pos, like, (4, 6), num_extra)
    assert out.shape == like.shape
    if num_extra:
        first = pos if source_extra else like
        assert torch.equal(out[:, 0], first[:, 0])
    expected = resize_position_embedding(pos[:, source_extra:], (source_side,) * 2, (4, 6))
    torch.testing.assert_close(out[:, num_extra:], expected)


def test_position_embedding_that_is_no_grid_is_left_alone():
    pos = torch.randn(1, 7, 8)
    assert adapt_position_embedding(pos, torch.randn(1, 16, 8), (4, 4), 0) is pos


def test_layer_norm_2d_normalises_channels():
    norm = LayerNorm2d(6)
    x = torch.randn(2, 6, 4, 5) * 3 + 1
    out = norm(x)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 4, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(out[0, :, 1, 2], F.layer_norm(x[0, :, 1, 2], (6,)))


def test_drop_path_drops_whole_samples():
    made = block(drop_path=0.5).train()
    x = torch.randn(64, 4, 12, dtype=torch.float64)
    kept = (made(x, (2, 2)) != x).flatten(1).any(1)
    # Each of the two branches survives with probability 1/2: a quarter passes unchanged.
    assert 4 <= (~kept).sum() <= 30
    assert torch.equal(made.eval()(x, (2, 2)), made(x, (2, 2)))


def test_layer_scale_starts_small():
    x = torch.randn(2, 4, 12)
    made = TransformerBlock(12, 3, 24, layer_scale=1e-6)
    assert (made(x, (2, 2)) - x).abs().max() < 1e-4
    assert made.scale1.gamma.shape == (12,)
