"""Mini-Swin: counts, shapes, windows, options, sharing, and what happens on load."""

import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from halvit_mm.backbones import MiniSwin
from halvit_mm.backbones.mini_swin import PatchMerging
from halvit_mm.layers import DenseAttention, DenseFFN, TiedAttention, TiedFFN, WindowLayout

SMALL = dict(dim=12, depths=(2, 4), num_heads=(2, 3))
DENSE = MiniSwin.dense_twin


def small(**options) -> MiniSwin:
    torch.manual_seed(0)
    return MiniSwin(**{"arch": SMALL, "window_size": 4, "out_indices": (0, 1), **options})


def exact(model: nn.Module, std: float = 0.2) -> nn.Module:
    """In 64 bits, with random values everywhere."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model.double().eval()


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Counts and sharing


@pytest.mark.parametrize(
    ("options", "with_head"),
    [
        (dict(arch="tiny"), 12_001_765),
        (dict(arch="small"), 26_463_205),
        (dict(arch="base"), 46_444_852),
        (dict(arch="base", window_size=12), 46_512_532),
        (dict(arch="tiny", **DENSE), 28_288_354),
        (dict(arch="small", **DENSE), 49_606_258),
        (dict(arch="base", **DENSE), 87_768_224),
        (dict(arch="base", window_size=12, **DENSE), 87_903_584),
    ],
    ids=str,
)
def test_published_parameter_counts(options, with_head):
    """With a head for 1000 classes; the state dict has each shared weight once."""
    with torch.device("meta"):
        model = MiniSwin(**options)
    head = 1000 * model.num_features[-1] + 1000
    assert count(model) + head == with_head
    assert sum(t.numel() for t in model.state_dict().values()) + head == with_head


def test_tying_halves_the_shared_weights_again():
    with torch.device("meta"):
        shared, tied = MiniSwin(arch="base"), MiniSwin(arch="base", tied=True)
    blocks = zip((1, 1, 9, 1), (128, 256, 512, 1024), strict=True)
    assert count(shared) - count(tied) == sum(n * 6 * dim**2 for n, dim in blocks)


@pytest.mark.parametrize(
    ("arch", "share", "blocks"),
    [
        ("tiny", None, [1, 1, 1, 1]),
        ("small", None, [1, 1, 9, 1]),
        ("base", None, [1, 1, 9, 1]),
        (dict(dim=8, depths=(2, 4, 6), num_heads=(1, 1, 1)), None, [1, 2, 3]),
        ("tiny", 1, [2, 2, 6, 2]),
        ("tiny", 2, [1, 1, 3, 1]),
        ("tiny", (1, 2, 3, 2), [2, 1, 2, 1]),
    ],
    ids=str,
)
def test_layers_and_blocks(arch, share, blocks):
    with torch.device("meta"):
        model = MiniSwin(arch=arch, share=share)
    assert [len(stage.blocks) for stage in model.stages] == blocks
    depths = [stage.num_layers for stage in model.stages]
    assert model.num_layers == sum(depths)
    assert model.first_layers == tuple(sum(depths[:i]) for i in range(len(depths)))


@pytest.mark.parametrize(
    ("transforms", "parts"),
    [
        (True, ("norm", "mix_logits", "mix_weights", "local")),
        (("norm",), ("norm",)),
        (["mix_logits", "local"], ("mix_logits", "local")),
        (("mix_weights",), ("mix_weights",)),
        (False, ()),
        ((), ()),
    ],
    ids=str,
)
def test_transforms_are_there_or_not(transforms, parts):
    model = small(transforms=transforms)
    for stage in model.stages:
        for block in stage.blocks:
            for part in ("mix_logits", "mix_weights", "local"):
                assert (getattr(block, part) is not None) == (part in parts)
            assert len(block.norm1) == len(block.norm2) == (2 if "norm" in parts else 1)
    sum(out.square().sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_transforms_that_do_nothing_equal_none():
    """Mixing by the identity and equal norms; a local convolution replaces the residual stream."""
    plain = exact(small(transforms=False))
    full = small(transforms=("norm", "mix_logits", "mix_weights")).double().eval()
    state = full.state_dict()
    for name in state:
        if ".mix_" in name:
            heads = len(state[name])
            state[name] = torch.eye(heads) if name.endswith("weight") else torch.zeros(heads)
        else:
            state[name] = plain.state_dict()[
                name.replace("norm1.1", "norm1.0").replace("norm2.1", "norm2.0")
            ]
    full.load_state_dict(state)
    x = images(2, 3, 50, 70)
    torch.testing.assert_close(full(x), plain(x), rtol=0, atol=1e-10)


def test_shared_layers_equal_unshared_ones_with_copied_weights():
    options = dict(mask_all_steps=False)
    shared = exact(small(**options))
    unshared = small(share=1, **options).double().eval()
    state = {}
    for name, value in shared.state_dict().items():
        parts = name.split(".")
        if "blocks" not in parts:
            state[name] = value
            continue
        of_steps = parts[5].isdigit()
        steps = [int(parts[5])] if of_steps else [0, 1]
        for step in steps:
            own = list(parts)
            own[3] = str(2 * int(parts[3]) + step)
            if of_steps:
                own[5] = "0"
            state[".".join(own)] = value
    unshared.load_state_dict(state)
    x = images(2, 3, 50, 70)
    torch.testing.assert_close(shared(x), unshared(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("tied", "attn", "ffn"),
    [
        (True, TiedAttention, TiedFFN),
        (("attn",), TiedAttention, DenseFFN),
        (["ffn"], DenseAttention, TiedFFN),
        (False, DenseAttention, DenseFFN),
    ],
    ids=str,
)
def test_tied_selects_the_layers(tied, attn, ffn):
    model = small(tied=tied)
    for stage in model.stages:
        for block in stage.blocks:
            assert type(block.attn) is attn
            assert type(block.ffn) is ffn
    sum(out.square().sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


# Inputs and outputs


@pytest.mark.parametrize("size", [(224, 224), (384, 640), (223, 331)], ids=str)
def test_four_stages_at_any_input_size(size):
    arch = dict(dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4))
    model = small(arch=arch, window_size=7, out_indices=(0, 1, 2, 3), drop_path_rate=0.1).train()
    outs = model(torch.randn(1, 3, *size))
    sides = [tuple(-(-side // (4 * 2**i)) for side in size) for i in range(4)]
    assert [tuple(out.shape) for out in outs] == [(1, 8 * 2**i, *sides[i]) for i in range(4)]
    assert all(out.is_contiguous() for out in outs)
    sum(out.square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [dict(), dict(mask_all_steps=False), DENSE], ids=str)
@pytest.mark.parametrize("size", [(36, 45), (41, 57), (9, 70), (31, 70)], ids=str)
def test_gradients_are_numbers_at_any_size(options, size):
    """Windows that are half or wholly padded after the shift included."""
    model = small(**options)
    outs = model(torch.randn(1, 3, *size))
    sum(out.square().mean() for out in outs).backward()
    assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_outputs_are_normalised_stages():
    x = torch.randn(2, 3, 64, 80)
    first, last = small().eval()(x)
    for out in (first, last):
        torch.testing.assert_close(out.mean(1), torch.zeros_like(out[:, 0]), rtol=0, atol=1e-5)
    default = MiniSwin(arch=SMALL, window_size=4)
    assert default.out_indices == (1,)
    assert not hasattr(default, "norm0")
    for index, expected in ((0, first), (-1, last)):
        model = small(out_indices=index)
        model.load_state_dict(small().state_dict(), strict=False)
        (out,) = model.eval()(x)
        assert torch.equal(out, expected)


def test_padding_fills_up_to_a_whole_patch():
    model = exact(small())
    x = images(1, 3, 50, 41)
    padded = nn.functional.pad(x, (0, 3, 0, 2))
    torch.testing.assert_close(model(x), model(padded), rtol=0, atol=1e-12)


def test_mlp_ratio_patch_size_and_channels():
    model = small(patch_size=2, in_channels=1, mlp_ratio=2.5)
    assert model.stages[1].blocks[0].ffn.fc1.weight.shape == (60, 24)
    shapes = [tuple(out.shape) for out in model(torch.randn(1, 1, 20, 24))]
    assert shapes == [(1, 12, 10, 12), (1, 24, 5, 6)]


def test_initial_weights():
    model = small(arch=dict(dim=96, depths=(2, 2), num_heads=(3, 6)), init_std=0.1)
    block = model.stages[0].blocks[0]
    assert block.attn.qkv.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert block.ffn.fc2.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert block.rel_pos.table.std().item() == pytest.approx(0.02, rel=0.2)
    merging = model.stages[0].downsample.reduction
    assert merging.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_patch_merging_goes_down_columns_and_pads_with_zeros():
    merging = PatchMerging(1)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()
    x = torch.arange(1.0, 16).reshape(1, 15, 1)  # rows 1 … 5, 6 … 10, 11 … 15
    out, size = merging(x, (3, 5))
    assert size == (2, 3)
    assert out[0].tolist() == [
        [1, 6, 2, 7],
        [3, 8, 4, 9],
        [5, 10, 0, 0],
        [11, 0, 12, 0],
        [13, 0, 14, 0],
        [15, 0, 0, 0],
    ]


# Windows

#: Without the local convolution, which looks 3 tokens far, and the mixers' biases.
ALONE = ("norm",)


def changed_tokens(model: MiniSwin, layer: int, size: tuple[int, int], row: int, column: int):
    """Where the map (H, W) changes after one layer of the first stage with one of its tokens."""
    x = images(1, size[0] * size[1], 12)
    other = x.clone()
    other[:, row * size[1] + column] += images(12)
    block, layout, step = list(model.stages[0].layers(size))[layer]
    with torch.no_grad():
        moved = block(x, layout, step) != block(other, layout, step)
    return moved.any(-1).unflatten(1, size)[0]


def rectangle(size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    expected = torch.zeros(size, dtype=torch.bool)
    expected[rows, columns] = True
    return expected


@pytest.mark.parametrize(
    ("layer", "token", "rows", "columns"),
    [
        (0, (0, 0), slice(0, 4), slice(0, 4)),
        (0, (5, 3), slice(4, 8), slice(0, 4)),
        (0, (7, 11), slice(4, 8), slice(8, 12)),
        # Shifted by two: rows 0–1, 2–5, 6–7 and columns 0–1, 2–5, 6–9, 10–11.
        (1, (0, 0), slice(0, 2), slice(0, 2)),
        (1, (3, 4), slice(2, 6), slice(2, 6)),
        (1, (5, 9), slice(2, 6), slice(6, 10)),
        (1, (7, 11), slice(6, 8), slice(10, 12)),
        (1, (7, 3), slice(6, 8), slice(2, 6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("share", [1, 2])
def test_only_shifted_layers_reach_across_borders_and_none_around(
    layer, token, rows, columns, share
):
    model = exact(small(share=share, transforms=ALONE, mask_all_steps=False))
    seen = changed_tokens(model, layer, (8, 12), *token)
    assert torch.equal(seen, rectangle((8, 12), rows, columns))


@pytest.mark.parametrize(
    ("token", "rows", "columns"),
    [
        ((0, 0), slice(0, 4), slice(0, 4)),
        ((5, 3), slice(4, 6), slice(0, 4)),
        ((7, 9), slice(6, 8), slice(8, 10)),
        ((2, 11), slice(0, 4), slice(10, 12)),
    ],
    ids=str,
)
def test_unshifted_layers_of_a_shared_block_are_masked_as_the_shifted_ones(token, rows, columns):
    """The last windows are split where the shift would join what does not belong together."""
    model = exact(small(transforms=ALONE))
    seen = changed_tokens(model, 0, (8, 12), *token)
    assert torch.equal(seen, rectangle((8, 12), rows, columns))


def test_masking_all_steps_is_for_blocks_that_serve_several_layers():
    x = images(1, 3, 64, 64)
    outs = {
        (share, mask_all_steps): exact(small(share=share, mask_all_steps=mask_all_steps))(x)[1]
        for share in (1, 2)
        for mask_all_steps in (True, False)
    }
    assert torch.equal(outs[1, True], outs[1, False])
    assert (outs[2, True] - outs[2, False]).abs().max() > 1e-4


@pytest.mark.parametrize("size", [(4, 4), (4, 16), (16, 3), (2, 3)], ids=str)
def test_a_map_no_larger_than_the_window_is_neither_shifted_nor_masked(size):
    """As in the last stage of 224 pixels."""
    tokens = torch.zeros(1, size[0] * size[1], 1)
    for _, layout, _ in small().stages[1].layers(size):
        assert layout.shift == (0, 0)
        assert layout.mask(tokens) is None


def test_shifts_alternate_through_blocks_and_steps():
    for share, expected in {
        1: [(0, 0), (1, 0), (2, 0), (3, 0)],
        2: [(0, 0), (0, 1), (1, 0), (1, 1)],
        4: [(0, 0), (0, 1), (0, 2), (0, 3)],
    }.items():
        stage = small(share=(1, share)).stages[1]
        blocks = list(stage.blocks)
        layers = list(stage.layers((8, 9)))
        assert [(blocks.index(block), step) for block, _, step in layers] == expected
        assert [layout.shift for _, layout, _ in layers] == [(0, 0), (2, 2), (0, 0), (2, 2)]


def test_window_as_large_as_the_map_equals_global():
    """7 × 7 windows on 4 × 5 tokens use the middle of the table."""
    model = exact(small(window_size=7, transforms=ALONE))
    block, layout, step = next(iter(model.stages[0].layers((4, 5))))
    x = images(2, 20, 12)
    assert torch.equal(block(x, layout, step), block(x, WindowLayout((4, 5)), step))


def test_padded_windows_equal_smaller_maps():
    """A map of 4 × 6 tokens, one layer: its right window is 4 × 2 tokens on their own."""
    model = exact(small(transforms=("norm", "mix_logits", "mix_weights")))
    block = model.stages[0].blocks[0]
    x = images(2, 4, 6, 12)
    left, right = (
        block(part.flatten(1, 2), WindowLayout(part.shape[1:3]), 0).unflatten(1, part.shape[1:3])
        for part in (x[:, :, :4], x[:, :, 4:])
    )
    out = block(x.flatten(1, 2), WindowLayout((4, 6), (4, 4)), 0).unflatten(1, (4, 6))
    torch.testing.assert_close(out, torch.cat((left, right), 2), rtol=0, atol=1e-10)


# Training


def test_checkpointing_changes_nothing():
    """Stochastic depth included, which must drop the same branches when it runs again."""
    plain, recomputed = (
        exact(small(drop_path_rate=0.5, with_cp=with_cp)) for with_cp in (False, True)
    )
    x = images(4, 3, 40, 50)
    for model in (plain, recomputed):
        torch.manual_seed(2)
        sum(out.square().sum() for out in model.train()(x)).backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-8)


def test_drop_path_grows_from_layer_to_layer():
    """Over all stages."""
    model = small(drop_path_rate=0.5)
    steps = [step for stage in model.stages for block in stage.blocks for step in block.drop_path]
    rates = [getattr(step, "p", 0.0) for step in steps]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2])
def test_frozen_stages(frozen_stages):
    model = small(frozen_stages=frozen_stages, drop_path_rate=0.5).train()
    before = copy.deepcopy(model.state_dict())
    parameters = [p for p in model.parameters() if p.requires_grad]
    outs = model(torch.randn(8, 3, 32, 32))
    assert any(out.requires_grad for out in outs) == bool(parameters)
    if parameters:
        # With weight decay, so that those whose branches were dropped move as well.
        optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5)
        sum((out * torch.randn_like(out)).sum() for out in outs).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        if name.startswith("patch_"):
            frozen = frozen_stages >= 0
        else:  # stages.<i>.… and norm<i>.…
            number = name.split(".")[1] if name.startswith("stages") else name[4]
            frozen = int(number) < frozen_stages
        assert torch.equal(value, before[name]) == frozen, name
    training = [i >= frozen_stages for i in range(2)]
    assert [stage.training for stage in model.stages] == training
    assert [model.norm0.training, model.norm1.training] == training
    assert model.patch_embed.training == model.patch_norm.training == (frozen_stages < 0)


def test_layer_depths_are_those_of_the_last_use():
    model = small()
    depths = {
        name: model.get_layer_depth("backbone." + name, "backbone.")
        for name in (
            "patch_embed.weight",
            "patch_norm.bias",
            "stages.0.blocks.0.norm1.0.weight",
            "stages.0.blocks.0.local.1.conv.weight",
            "stages.0.blocks.0.attn.qkv.weight",
            "stages.0.downsample.reduction.weight",
            "stages.1.blocks.0.mix_logits.0.bias",
            "stages.1.blocks.0.rel_pos.table",
            "stages.1.blocks.1.norm2.0.weight",
            "stages.1.blocks.1.ffn.fc1.bias",
            "norm0.weight",
            "norm1.weight",
        )
    }
    assert [depth for depth, _ in depths.values()] == [0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 7]
    assert {total for _, total in depths.values()} == {8}
    assert model.get_layer_depth("head.fc.weight", "backbone.") == (7, 8)
    shared_norms = small(transforms=False)
    assert shared_norms.get_layer_depth("stages.1.blocks.1.norm1.0.weight")[0] == 6


# Features


@pytest.mark.parametrize("with_cp", [False, True])
def test_features_are_the_projections_and_the_outputs(with_cp):
    model = exact(small(with_cp=with_cp))
    x = images(2, 3, 64, 64)
    outs, features = model.forward_features(x, (1, 2, 3, 5))
    torch.testing.assert_close(outs, model(x))
    assert sorted(features) == [1, 2, 3, 5]
    assert [tuple(features[i].hidden.shape) for i in (1, 5)] == [(2, 256, 12), (2, 64, 24)]
    for index, out in ((1, outs[0]), (5, outs[1])):
        norm = model.norm0 if index == 1 else model.norm1
        expected = norm(features[index].hidden).transpose(1, 2)
        torch.testing.assert_close(out.flatten(2), expected)

    # Layer 3 is the second one of the second stage: its windows of 4 × 4 on 8 × 8 are shifted.
    block = model.stages[1].blocks[0]
    projected = block.attn.qkv(block.norm1[1](features[2].hidden)).chunk(3, dim=-1)
    for found, tensor in zip(features[3].qkv, projected, strict=True):
        maps = tensor.unflatten(1, (8, 8)).roll((-2, -2), (1, 2))
        windows = [
            maps[b, top : top + 4, left : left + 4].flatten(0, 1)
            for b in range(2)
            for top in (0, 4)
            for left in (0, 4)
        ]
        torch.testing.assert_close(found, torch.stack(windows))


def test_features_of_layers_behind_the_outputs():
    model = exact(small(out_indices=0))
    x = images(1, 3, 32, 32)
    (out,), features = model.forward_features(x, [3])
    assert torch.equal(out, model(x)[0])
    assert features[3].hidden.shape == (1, 16, 24)


# Loading and storing


def test_position_tables_are_resampled_on_load():
    source, target = small(window_size=7), small(window_size=12)
    assert not target.load_state_dict(source.state_dict()).missing_keys
    for stage, loaded in zip(source.stages, target.stages, strict=True):
        table = stage.blocks[0].rel_pos.table.T.unflatten(1, (13, 13))[None]
        expected = nn.functional.interpolate(table, size=(23, 23), mode="bicubic")
        torch.testing.assert_close(loaded.blocks[0].rel_pos.table, expected[0].flatten(1).T)


def test_deepcopy_and_pickle_keep_one_owner():
    """EMA deep-copies and checkpoints pickle: each weight must stay one parameter."""
    model = copy.deepcopy(small())
    state = pickle.loads(pickle.dumps(model.state_dict()))
    pointers = [value.untyped_storage().data_ptr() for value in state.values()]
    assert len(set(pointers)) == len(pointers) == len(list(model.parameters()))
    again = pickle.loads(pickle.dumps(model)).eval()
    x = torch.randn(1, 3, 40, 40)
    assert all(map(torch.equal, again(x), model.eval()(x)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model = small()
    with torch.autocast("cpu", dtype=dtype):
        outs = model(torch.randn(2, 3, 40, 56))
    sum(out.float().square().mean() for out in outs).backward()
    grads = [p.grad for p in model.parameters()]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmpretrain"])
def test_resolves_from_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type="MiniSwin", arch=SMALL))
    assert type(model) is MiniSwin


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(arch="huge"), "arch='huge' is unknown: choose one of"),
        (dict(arch=dict(dim=8, depths=(2, 2))), "a dict needs exactly"),
        (dict(arch=dict(dim=8, depths=(2, 2), num_heads=(2,))), "one number for each stage"),
        (dict(arch=dict(dim=10, depths=(2,), num_heads=(3,)), out_indices=0), "num_heads=3"),
        (dict(share=(2, 2, 2)), r"share=\(2, 2, 2\) must have one number for each of 2 stages"),
        (dict(share=4), "share of stage 0=4 does not divide the 2 layers"),
        (dict(share=(2, 3)), "share of stage 1=3 does not divide the 4 layers"),
        (dict(share=0), "share of stage 0=0 does not divide the 2 layers"),
        (dict(transforms=("rel_pos",)), "transforms=.* choose True, False or a subset"),
        (dict(transforms="norm"), "transforms='norm' is unknown"),
        (dict(tied=("mlp",)), "tied=.* choose True, False or a subset"),
        (dict(out_indices=(0, 2)), "must name stages between -2 and 1"),
        (dict(out_indices=()), "out_indices"),
        (dict(frozen_stages=3), "frozen_stages=3 is not between -1 and 2"),
        (dict(frozen_stages=-2), "frozen_stages=-2 is not between -1 and 2"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        small(**options)
