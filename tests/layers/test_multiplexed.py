"""Parts of MiniViT's blocks against slow loops, and windows against rectangles cut by hand."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halvit_mm.layers import (
    HeadMixer,
    ImageRelativePosition,
    LocalConv,
    MultiplexedBlock,
    WindowLayout,
    WindowRelativePosition,
)

ALL = ("norm", "mix_logits", "mix_weights")


def filled(module: nn.Module, std: float = 0.3) -> nn.Module:
    """The module in 64 bits with random values everywhere."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module.double().eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# Mixing heads


@pytest.mark.parametrize("bias", [False, True])
def test_head_mixer_has_output_heads_first(bias):
    mixer = filled(HeadMixer(3, bias=bias))
    maps = noise(2, 3, 4, 5)
    mixed = mixer(maps)
    for o in range(3):
        expected = sum(mixer.weight[o, i] * maps[:, i] for i in range(3))
        if bias:
            expected = expected + mixer.bias[o]
        torch.testing.assert_close(mixed[:, o], expected, rtol=0, atol=1e-12)
    assert [name for name, _ in mixer.named_parameters()] == ["weight", "bias"][: 1 + bias]


def test_head_mixer_starts_almost_switched_off():
    torch.manual_seed(0)
    mixer = HeadMixer(40, bias=True)
    assert mixer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert mixer.weight.mean().abs() < 0.002
    assert not mixer.bias.any()


# Local convolution


def test_local_conv_adds_to_the_normalised_tokens():
    """A depthwise 7 × 7 convolution of the normalised map, with zeros outside."""
    local = filled(LocalConv(2))
    height, width = size = (3, 9)
    x = noise(2, 27, 2)
    n = F.layer_norm(x, (2,), local.norm.weight, local.norm.bias, 1e-5).unflatten(1, size)
    out = local(x, size).unflatten(1, size)
    for row, column, channel in itertools.product(range(height), range(width), range(2)):
        expected = n[:, row, column, channel] + local.conv.bias[channel]
        for i, j in itertools.product(range(7), range(7)):
            y, x_ = row + i - 3, column + j - 3
            if 0 <= y < height and 0 <= x_ < width:
                expected = expected + local.conv.weight[channel, 0, i, j] * n[:, y, x_, channel]
        torch.testing.assert_close(out[:, row, column, channel], expected, rtol=0, atol=1e-12)


# Relative positions


def bucket(distance: int) -> int:
    near = abs(distance)
    index = 0 if near == 0 else 1 if near == 1 else 2 if near <= 3 else 3
    return index if distance > 0 else -index


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (9, 2), (5, 7)], ids=str)
def test_image_relative_position_pair_by_pair(size):
    position = filled(ImageRelativePosition(4))
    height, width = size
    tokens = height * width
    q = noise(2, 3, tokens, 4)
    logits = position(q, size)
    assert logits.shape == (2, 3, tokens, tokens)
    expected = torch.empty_like(logits)
    for i, j in itertools.product(range(tokens), repeat=2):
        (row_i, column_i), (row_j, column_j) = divmod(i, width), divmod(j, width)
        index = 7 * (bucket(row_i - row_j) + 3) + bucket(column_i - column_j) + 3
        expected[:, :, i, j] = q[:, :, i] / 4**0.5 @ position.table[:, index]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_image_relative_position_starts_at_zero_and_learns():
    position = ImageRelativePosition(4)
    logits = position(torch.randn(2, 3, 35, 4), (5, 7))
    assert not logits.any()
    (logits * torch.randn(35, 35)).sum().backward()
    assert (position.table.grad != 0).all()  # a map of 5 × 7 has all distances


@pytest.mark.parametrize(
    ("window", "size"),
    [((3, 3), (3, 3)), ((3, 3), (2, 1)), ((3, 3), (1, 3)), ((2, 4), (2, 4)), ((2, 4), (1, 2))],
    ids=str,
)
def test_window_relative_position_pair_by_pair(window, size):
    """In windows that the map cuts off, too."""
    position = filled(WindowRelativePosition(window, 5))
    assert position.table.shape == ((2 * window[0] - 1) * (2 * window[1] - 1), 5)
    tokens = size[0] * size[1]
    logits = position(noise(6, 5, tokens, 2), size)
    assert logits.shape == (1, 5, tokens, tokens)
    for i, j in itertools.product(range(tokens), repeat=2):
        (row_i, column_i), (row_j, column_j) = divmod(i, size[1]), divmod(j, size[1])
        row, column = row_i - row_j + window[0] - 1, column_i - column_j + window[1] - 1
        assert torch.equal(logits[0, :, i, j], position.table[row * (2 * window[1] - 1) + column])


def test_window_relative_position_is_resampled_on_load():
    small, large = filled(WindowRelativePosition((7, 7), 3)), WindowRelativePosition((12, 12), 3)
    large.load_state_dict(small.state_dict())
    grid = small.table.T.reshape(1, 3, 13, 13)
    expected = F.interpolate(grid, size=(23, 23), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(large.table.double(), expected, rtol=0, atol=1e-6)
    same = WindowRelativePosition((7, 7), 3).double()
    same.load_state_dict(small.state_dict())
    assert torch.equal(same.table, small.table)
    with pytest.raises(RuntimeError, match="size mismatch for table"):
        same.load_state_dict(dict(table=torch.zeros(168, 3)))


# Windows

SIZES = [(8, 8), (8, 12), (9, 7), (5, 10), (3, 9), (4, 4), (1, 1), (13, 6)]
SHIFTS = [dict(), dict(shift=(2, 2)), dict(shift=(2, 1)), dict(regions=(2, 2))]


def layouts(function):
    function = pytest.mark.parametrize("window", [(4, 4), (3, 5)], ids=str)(function)
    function = pytest.mark.parametrize("options", SHIFTS, ids=str)(function)
    return pytest.mark.parametrize("size", SIZES, ids=str)(function)


@layouts
def test_merging_undoes_partition(size, options, window):
    layout = WindowLayout(size, window, **options)
    tokens = size[0] * size[1]
    x = noise(2, tokens, 3)
    windows = layout.partition(x)
    assert windows.shape[1] == layout.window[0] * layout.window[1]
    assert torch.equal(layout.merge(windows), x)
    mask = layout.mask(x)
    if mask is not None:
        assert mask.shape[0] == len(windows) and mask.shape[1] == 1
        assert mask.shape[2] in (1, windows.shape[1]) and mask.shape[3] == windows.shape[1]


@layouts
def test_windows_token_by_token(size, options, window):
    """Where each token of a window comes from, and which of its window's tokens it sees.

    A token sees those that are as far from it on the map as in the window: others came around.
    """
    layout = WindowLayout(size, window, **options)
    h, w = min(window[0], size[0]), min(window[1], size[1])
    height, width = -(-size[0] // h) * h, -(-size[1] // w) * w
    shift = options.get("shift", (0, 0))
    regions = options.get("regions", shift)
    # Numbers from 1 tell tokens from padding.
    x = torch.arange(1.0, 1 + size[0] * size[1])[None, :, None]
    windows = layout.partition(x)[..., 0]
    mask = layout.mask(x)
    if mask is None:
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    mask = mask[:, 0].expand(len(windows), h * w, h * w)
    assert mask.any(-1).all(), "a token that sees nothing has no softmax"

    corners = itertools.product(range(0, height, h), range(0, width, w))
    for window_, visible, (top, left) in zip(windows, mask, corners, strict=True):
        places = [(top + y, left + x_) for y in range(h) for x_ in range(w)]
        origins = [((y + shift[0]) % height, (x_ + shift[1]) % width) for y, x_ in places]
        real = [y < size[0] and x_ < size[1] for y, x_ in origins]
        numbers = [
            1 + y * size[1] + x_ if is_real else 0
            for (y, x_), is_real in zip(origins, real, strict=True)
        ]
        assert window_.tolist() == numbers
        unrolled = [((y + regions[0]) % height, (x_ + regions[1]) % width) for y, x_ in places]
        for i, j in itertools.product(range(h * w), repeat=2):
            if real[i]:
                joined = all(
                    unrolled[i][axis] - unrolled[j][axis] == places[i][axis] - places[j][axis]
                    for axis in (0, 1)
                )
                assert visible[i, j] == (joined and real[j]), (places[i], places[j])


def test_no_mask_where_none_is_needed():
    x = torch.zeros(2, 64, 1)
    assert WindowLayout((8, 8), (4, 4)).mask(x) is None
    assert WindowLayout((8, 8)).mask(x) is None
    assert WindowLayout((8, 8), (9, 20)).mask(x) is None
    assert WindowLayout((8, 8), (4, 4), shift=(2, 2)).mask(x).shape == (8, 1, 16, 16)
    # Padding alone needs one row of mask for each window.
    assert WindowLayout((8, 8), (3, 4)).mask(x).shape == (12, 1, 1, 12)


# The block


def multiplexed(**options) -> MultiplexedBlock:
    return filled(MultiplexedBlock(12, 3, 24, **{"steps": 2, "transforms": ALL, **options}))


POSITIONS = {
    "image": dict(transforms=(*ALL, "rel_pos")),
    "window": dict(window_rel_pos=(4, 4), mixer_bias=True),
    "fused": dict(transforms=(), window_rel_pos=(4, 4)),
}


def cuts(length: int, window: int, options: dict, axis: int) -> list[int]:
    """Where shifted or split windows divide an axis of a map."""
    padded = -(-length // window) * window
    shift = options.get("shift", (0, 0))[axis]
    lines = {*range(shift, length, window)}
    if "regions" in options:
        lines.add(padded - options["regions"][axis])
    return sorted({0, length, *(line for line in lines if line < length)})


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("options", SHIFTS, ids=str)
@pytest.mark.parametrize("size", [(8, 8), (6, 11), (9, 7)], ids=str)
def test_windows_attend_within_rectangles_alone(kind, options, size):
    """A map in windows, shifted, split and padded ones, equals its rectangles one by one."""
    block = multiplexed(**POSITIONS[kind])
    if options and kind == "window":
        nn.init.zeros_(block.mix_weights[1].bias)
    layout = WindowLayout(size, (4, 4), **options)
    x = noise(2, *size, 12)
    expected = torch.empty_like(x)
    rows, columns = (cuts(size[axis], 4, options, axis) for axis in (0, 1))
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(columns):
            part = x[:, top:bottom, left:right]
            part_size = tuple(part.shape[1:3])
            out = block(part.flatten(1, 2), WindowLayout(part_size), 1)
            expected[:, top:bottom, left:right] = out.unflatten(1, part_size)
    out = block(x.flatten(1, 2), layout, 1)
    torch.testing.assert_close(out, expected.flatten(1, 2), rtol=0, atol=1e-10)


def test_the_bias_after_the_softmax_reaches_hidden_tokens():
    """As in the reference code: published weights need it."""
    block = multiplexed(window_rel_pos=(4, 4), mixer_bias=True)
    layout = WindowLayout((8, 8), (4, 4), shift=(2, 2))
    x = noise(1, 64, 12)
    changed = x.clone()
    changed[:, 0] += noise(
        12
    )  # the upper left token is beside the lower right ones after the shift
    far = slice(63, 64)
    assert (block(x, layout, 0) - block(changed, layout, 0))[:, far].abs().max() > 1e-3
    nn.init.zeros_(block.mix_weights[0].bias)
    assert torch.equal(block(x, layout, 0)[:, far], block(changed, layout, 0)[:, far])


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("options", SHIFTS, ids=str)
@pytest.mark.parametrize("size", [(9, 7), (5, 10), (13, 6)], ids=str)
def test_gradients_are_numbers_where_whole_regions_are_padding(kind, options, size):
    block = multiplexed(**POSITIONS[kind])
    x = noise(2, size[0] * size[1], 12).requires_grad_()
    block(x, WindowLayout(size, (4, 4), **options), 1).square().sum().backward()
    assert x.grad.isfinite().all()
    used = [parameter.grad for parameter in block.parameters() if parameter.grad is not None]
    assert used and all(grad.isfinite().all() for grad in used)


def test_steps_share_weights_and_nothing_else():
    """Each step has gradients of its own parts and of the shared ones."""
    block = multiplexed(transforms=(*ALL, "rel_pos", "local"), steps=3)
    own = {"norm1", "norm2", "mix_logits", "mix_weights", "rel_pos", "local"}
    assert {name for name, _ in block.named_children()} == own | {"attn", "ffn", "drop_path"}
    for step in range(3):
        block.zero_grad(set_to_none=True)
        block(noise(1, 20, 12), WindowLayout((4, 5)), step).square().sum().backward()
        for name, parameter in block.named_parameters():
            part, index, *_ = name.split(".")
            used = part not in own or int(index) == step
            assert (parameter.grad is not None) == used, name


def test_steps_keep_no_state():
    """Whatever was run before, in whatever order, a step gives the same."""
    block = multiplexed(transforms=(*ALL, "rel_pos", "local"))
    x, layout = noise(2, 20, 12), WindowLayout((4, 5))
    before = copy.deepcopy(block.state_dict())
    first, second = block(x, layout, 0), block(x, layout, 1)
    assert (first - second).abs().max() > 1e-2
    for step, expected in ((1, second), (1, second), (0, first), (1, second), (0, first)):
        assert torch.equal(block(x, layout, step), expected)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_shared_gradients_are_the_sum_over_the_steps():
    block = multiplexed()
    x, layout = noise(2, 20, 12), WindowLayout((4, 5))
    grads = []
    for steps in ((0,), (1,), (0, 1)):
        block.zero_grad()
        sum(block(x, layout, step).square().sum() for step in steps).backward()
        grads.append(block.ffn.fc1.weight.grad.clone())
    torch.testing.assert_close(grads[0] + grads[1], grads[2], rtol=0, atol=1e-9)


@pytest.mark.parametrize("tied", [(), ("attn",), ("ffn",), ("attn", "ffn")], ids=str)
def test_queries_keys_and_values_are_the_projections(tied):
    block = multiplexed(tied=tied)
    x, layout = noise(2, 35, 12), WindowLayout((5, 7), (4, 4), shift=(2, 2))
    out, qkv = block.forward_with_qkv(x, layout, 1)
    assert torch.equal(out, block(x, layout, 1))
    projected = map(layout.partition, block.attn.project_in(block.norm1[1](x)))
    assert [t.shape for t in qkv] == [(2 * 4, 16, 12)] * 3
    assert all(torch.equal(a, b) for a, b in zip(qkv, projected, strict=True))


def test_identity_mixers_mix_nothing():
    plain, mixed = multiplexed(transforms=("norm",)), multiplexed()
    missing, unexpected = mixed.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("mix_") for name in missing)
    for mixer in (*mixed.mix_logits, *mixed.mix_weights):
        nn.init.eye_(mixer.weight)
    x = noise(2, 20, 12)
    for layout in (WindowLayout((4, 5)), WindowLayout((4, 5), (3, 3), shift=(1, 1))):
        torch.testing.assert_close(mixed(x, layout, 0), plain(x, layout, 0), rtol=0, atol=1e-10)


def test_the_bias_before_the_softmax_changes_nothing():
    block = multiplexed(mixer_bias=True)
    x, layout = noise(2, 20, 12), WindowLayout((4, 5), (3, 3), shift=(1, 1))
    expected = block(x, layout, 0)
    nn.init.normal_(block.mix_logits[0].bias, std=3)
    torch.testing.assert_close(block(x, layout, 0), expected, rtol=0, atol=1e-10)
    nn.init.normal_(block.mix_weights[0].bias, std=3)
    assert (block(x, layout, 0) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("transforms", "norms"), [(ALL, 3), (("mix_logits", "mix_weights"), 1), ((), 1)]
)
def test_last_step(transforms, norms):
    block = MultiplexedBlock(12, 3, 24, steps=3, transforms=transforms, window_rel_pos=(4, 4))
    for part in ("norm1", "norm2"):
        found = [
            block.last_step(name) for name, _ in block.named_parameters() if name.startswith(part)
        ]
        assert found == ([0, 0, 1, 1, 2, 2] if norms == 3 else [2, 2])
    for name in ("attn.qkv.weight", "ffn.fc2.bias", "rel_pos.table"):
        assert block.last_step(name) == 2
    if transforms:
        assert [block.last_step(f"mix_logits.{i}.weight") for i in range(3)] == [0, 1, 2]


def test_drop_path_drops_both_branches_of_whole_samples():
    """At the rate of the step."""
    block = multiplexed(drop_path=(0.0, 0.5)).train()
    x, layout = noise(64, 4, 12), WindowLayout((2, 2))
    assert torch.equal(block(x, layout, 0), block(x, layout, 0))
    kept = (block(x, layout, 1) != x).flatten(1).any(1)
    # Each of the two branches survives with probability 1/2: a quarter passes unchanged.
    assert 4 <= (~kept).sum() <= 30
    block.eval()
    assert torch.equal(block(x, layout, 1), block(x, layout, 1))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"dim=10 .* num_heads=3"):
        MultiplexedBlock(10, 3, 24, steps=2)
