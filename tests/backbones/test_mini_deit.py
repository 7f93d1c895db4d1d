"""Mini-DeiT: counts, shapes, options, sharing, and what happens on load."""

import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from halvit_mm.backbones import HaLViT, MiniDeiT
from halvit_mm.layers import (
    DenseAttention,
    DenseFFN,
    TiedAttention,
    TiedFFN,
    adapt_position_embedding,
)

SMALL = dict(dim=24, depth=4, num_heads=3)
DENSE = MiniDeiT.dense_twin


def small(**options) -> MiniDeiT:
    torch.manual_seed(0)
    return MiniDeiT(**{"arch": SMALL, "img_size": 64, **options})


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
        (dict(arch="tiny"), 3_090_304),
        (dict(arch="small"), 11_450_824),
        (dict(arch="base"), 44_098_408),
        (dict(arch="base", img_size=384), 44_390_248),
        (dict(arch="base", share=12), 8_674_408),
        (dict(arch="tiny", with_cls_token=True, **DENSE), 5_717_416),
        (dict(arch="small", with_cls_token=True, **DENSE), 22_050_664),
        (dict(arch="base", with_cls_token=True, **DENSE), 86_567_656),
    ],
    ids=str,
)
def test_published_parameter_counts(options, with_head):
    """With a head for 1000 classes; the state dict has each shared weight once."""
    with torch.device("meta"):
        model = MiniDeiT(**options)
    head = 1000 * model.embed_dims + 1000
    assert count(model) + head == with_head
    assert sum(t.numel() for t in model.state_dict().values()) + head == with_head


def test_tying_halves_the_shared_weights_again():
    with torch.device("meta"):
        shared, tied = MiniDeiT(arch="base"), MiniDeiT(arch="base", tied=True)
    assert count(shared) - count(tied) == 6 * 6 * 768**2
    assert count(tied) + 769_000 == 22_864_744


@pytest.mark.parametrize("share", [1, 2, 4])
def test_layers_and_blocks(share):
    model = small(share=share)
    assert (len(model.blocks), model.num_layers) == (4 // share, 4)
    names = {name for name, _ in model.named_parameters()}
    assert "blocks.0.attn.qkv.weight" in names
    for part in ("norm1", "norm2", "mix_logits", "mix_weights", "rel_pos"):
        steps = {name.split(".")[3] for name in names if name.startswith(f"blocks.0.{part}.")}
        assert steps == {str(step) for step in range(share)}


@pytest.mark.parametrize(
    ("transforms", "parts"),
    [
        (True, ("norm", "mix_logits", "mix_weights", "rel_pos")),
        (("norm",), ("norm",)),
        (["mix_logits", "rel_pos"], ("mix_logits", "rel_pos")),
        (("mix_weights",), ("mix_weights",)),
        (False, ()),
        ((), ()),
    ],
    ids=str,
)
def test_transforms_are_there_or_not(transforms, parts):
    model = small(transforms=transforms)
    for block in model.blocks:
        for part in ("mix_logits", "mix_weights", "rel_pos"):
            assert (getattr(block, part) is not None) == (part in parts)
        assert len(block.norm1) == len(block.norm2) == (2 if "norm" in parts else 1)
    (out,) = model(torch.randn(2, 3, 64, 64))
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_transforms_that_do_nothing_equal_none():
    """Mixing by the identity, relative positions of zero and equal norms."""
    plain, full = exact(small(transforms=False)), exact(small())
    state = plain.state_dict()
    for i in range(2):
        for norm in ("norm1", "norm2"):
            for value in ("weight", "bias"):
                name = f"blocks.{i}.{norm}.{{}}.{value}"
                state[name.format(1)] = state[name.format(0)]
        for step in range(2):
            state[f"blocks.{i}.mix_logits.{step}.weight"] = torch.eye(3)
            state[f"blocks.{i}.mix_weights.{step}.weight"] = torch.eye(3)
            state[f"blocks.{i}.rel_pos.{step}.table"] = torch.zeros(8, 49)
    full.load_state_dict(state)
    x = images(2, 3, 64, 48)
    torch.testing.assert_close(full(x)[0], plain(x)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("with_cls_token", [False, True])
def test_the_dense_twin_is_a_plain_transformer(with_cls_token):
    """With the weights of this project's other one."""
    plain = exact(HaLViT(arch=SMALL, img_size=64, tied=False, with_cls_token=with_cls_token))
    dense = small(with_cls_token=with_cls_token, **DENSE).double().eval()
    state = {
        name.replace("norm1.", "norm1.0.").replace("norm2.", "norm2.0."): value
        for name, value in plain.state_dict().items()
    }
    dense.load_state_dict(state)
    x = images(2, 3, 64, 48)
    torch.testing.assert_close(dense(x)[0], plain(x)[0], rtol=0, atol=1e-10)


def test_shared_layers_equal_unshared_ones_with_copied_weights():
    shared, unshared = exact(small()), small(share=1).double().eval()
    state = {}
    for name, value in shared.state_dict().items():
        if not name.startswith("blocks."):
            state[name] = value
            continue
        _, block, part, rest = name.split(".", 3)
        of_steps = part not in ("attn", "ffn")
        steps = [int(rest[0])] if of_steps else [0, 1]
        for step in steps:
            own = f"0{rest[1:]}" if of_steps else rest
            state[f"blocks.{2 * int(block) + step}.{part}.{own}"] = value
    unshared.load_state_dict(state)
    x = images(2, 3, 64, 48)
    torch.testing.assert_close(shared(x)[0], unshared(x)[0], rtol=0, atol=1e-10)


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
    for block in model.blocks:
        assert type(block.attn) is attn
        assert type(block.ffn) is ffn
    (out,) = model(torch.randn(2, 3, 64, 64))
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# Inputs and outputs

SIZES = [(224, 224), (384, 640), (223, 331)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("window_size", [0, 5, 14])
def test_any_input_size(size, window_size):
    model = small(
        img_size=224,
        out_type="featmap",
        out_indices=(1, 3),
        window_size=window_size,
        global_blocks=(3,),
        drop_path_rate=0.1,
    ).train()
    outs = model(torch.randn(1, 3, *size))
    expected = (1, 24, -(-size[0] // 16), -(-size[1] // 16))
    assert [tuple(out.shape) for out in outs] == [expected, expected]
    sum(out.square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_out_types_agree():
    outs = {}
    for out_type in ("raw", "avg_featmap", "featmap"):
        (outs[out_type],) = small(out_type=out_type).eval()(torch.ones(2, 3, 48, 64))
    raw = outs["raw"]
    assert raw.shape == (2, 12, 24)
    torch.testing.assert_close(outs["avg_featmap"], raw.mean(1))
    torch.testing.assert_close(outs["featmap"].flatten(2).transpose(1, 2), raw)
    assert outs["featmap"].shape == (2, 24, 3, 4)
    (default,) = small().eval()(torch.ones(2, 3, 48, 64))
    torch.testing.assert_close(default, outs["avg_featmap"])


def test_class_token():
    options = dict(with_cls_token=True, transforms=("norm", "mix_logits", "mix_weights"))
    x = torch.randn(2, 3, 48, 64)
    (raw,) = small(out_type="raw", **options).eval()(x)
    (token,) = small(**options).eval()(x)
    assert raw.shape == (2, 13, 24)
    torch.testing.assert_close(token, raw[:, 0])


def test_out_indices_are_layers_within_blocks():
    model = small(out_type="raw", out_indices=(0, 1, -1)).eval()
    x = torch.randn(1, 3, 64, 64)
    first, second, last = model(x)
    for index, out in ((0, first), (1, second), (3, last)):
        torch.testing.assert_close(small(out_type="raw", out_indices=index).eval()(x)[0], out)
    torch.testing.assert_close(last.mean(-1), torch.zeros(1, 16), rtol=0, atol=1e-5)  # normalised
    assert isinstance(small(out_indices=1).norm, nn.Identity)
    assert isinstance(small(final_norm=False).norm, nn.Identity)


def test_mlp_ratio_patch_size_and_channels():
    model = small(patch_size=8, in_channels=1, mlp_ratio=2.5)
    assert model.blocks[0].ffn.fc1.weight.shape == (60, 24)
    assert model.pos_embed.shape == (1, 64, 24)
    assert model(torch.randn(1, 1, 64, 64))[0].shape == (1, 24)


def test_initial_weights():
    model = small(arch=dict(dim=96, depth=4, num_heads=3), init_std=0.1)
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert model.blocks[0].ffn.fc2.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert not model.blocks[0].attn.proj.bias.any()
    assert all(not table.any() for n, table in model.named_parameters() if "rel_pos" in n)


# Windows


def changed_tokens(model: MiniDeiT, row: int, column: int) -> Tensor:
    """Where the map (H, W) changes with one of its patches."""
    x = images(1, 3, 64, 96)
    other = x.clone()
    other[:, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 1
    with torch.no_grad():
        (out,), (moved,) = model(x), model(other)
    return (out != moved).any(1)[0]


def test_windows_keep_to_themselves_but_in_global_layers():
    options = dict(out_type="featmap", window_size=3)
    seen = changed_tokens(exact(small(**options)), 1, 3)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[:3, 3:] = True
    assert torch.equal(seen, expected)
    # The last row lies in windows that are padded.
    seen = changed_tokens(exact(small(**options)), 3, 0)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[3:, :3] = True
    assert torch.equal(seen, expected)
    assert changed_tokens(exact(small(global_blocks=(2,), **options)), 3, 0).all()
    assert changed_tokens(exact(small(out_type="featmap")), 3, 0).all()


def test_global_blocks_are_layers():
    model = small(window_size=3, global_blocks=(1, -1))
    assert model.windows == ((3, 3), None, (3, 3), None)
    assert small().windows == (None,) * 4


def test_window_as_large_as_the_map_equals_global():
    whole = exact(small())
    x = images(2, 3, 60, 64)
    for window_size in (4, 14):
        windowed = small(window_size=window_size).double().eval()
        windowed.load_state_dict(whole.state_dict())
        torch.testing.assert_close(windowed(x)[0], whole(x)[0], rtol=0, atol=1e-10)
    narrower = small(window_size=2).double().eval()
    narrower.load_state_dict(whole.state_dict())
    assert (narrower(x)[0] - whole(x)[0]).abs().max() > 1e-5


def test_padded_windows_equal_smaller_maps():
    """Of 3 × 5 tokens in windows of 3 × 3, the right ones are 3 × 2 tokens on their own."""
    model = exact(small(window_size=3, out_type="featmap"))
    nn.init.zeros_(model.pos_embed)
    x = images(2, 3, 48, 80)
    left, right = model(x[..., :48])[0], model(x[..., 48:])[0]
    torch.testing.assert_close(model(x)[0], torch.cat((left, right), -1), rtol=0, atol=1e-10)


def test_padding_fills_up_to_a_whole_patch():
    model = exact(small(out_type="featmap"))
    x = images(1, 3, 50, 41)
    padded = torch.nn.functional.pad(x, (0, 7, 0, 14))
    torch.testing.assert_close(model(x)[0], model(padded)[0])


# Training


@pytest.mark.parametrize("window_size", [0, 3])
def test_checkpointing_changes_nothing(window_size):
    """Stochastic depth included, which must drop the same branches when it runs again."""
    options = dict(drop_path_rate=0.5, window_size=window_size, out_type="featmap")
    plain, recomputed = exact(small(**options)), exact(small(with_cp=True, **options))
    x = images(6, 3, 64, 80)
    for model in (plain, recomputed):
        torch.manual_seed(2)
        model.train()(x)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-9)


def test_drop_path_grows_from_layer_to_layer():
    model = small(drop_path_rate=0.3)
    layers = [step for block in model.blocks for step in block.drop_path]
    assert [getattr(layer, "p", 0.0) for layer in layers] == pytest.approx([0, 0.1, 0.2, 0.3])
    one = small(arch=dict(dim=24, depth=1, num_heads=3), share=1, drop_path_rate=0.3)
    assert isinstance(one.blocks[0].drop_path[0], nn.Identity)


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2])
def test_frozen_stages(frozen_stages):
    """Blocks, all of whose layers are frozen together."""
    model = small(frozen_stages=frozen_stages, drop_path_rate=0.5).train()
    before = copy.deepcopy(model.state_dict())
    parameters = [p for p in model.parameters() if p.requires_grad]
    (out,) = model(torch.randn(16, 3, 64, 64))
    if parameters:
        # With weight decay, so that those whose branches were dropped move as well.
        optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.5)
        (out * torch.randn(24)).sum().backward()
        optimizer.step()
    assert out.requires_grad == bool(parameters)
    for name, value in model.state_dict().items():
        depth, _ = model.get_layer_depth(name)
        frozen = depth <= 2 * frozen_stages if depth < 5 else frozen_stages == 2
        assert torch.equal(value, before[name]) == frozen, name
    assert [block.training for block in model.blocks] == [i >= frozen_stages for i in range(2)]
    assert model.norm.training == (frozen_stages < 2)


def test_layer_depths_are_those_of_the_last_use():
    model = small()
    depths = {
        name: model.get_layer_depth("backbone." + name, "backbone.")
        for name in (
            "pos_embed",
            "patch_embed.weight",
            "blocks.0.norm1.0.weight",
            "blocks.0.norm2.1.bias",
            "blocks.0.attn.qkv.weight",
            "blocks.1.rel_pos.0.table",
            "blocks.1.mix_logits.1.weight",
            "blocks.1.ffn.fc1.bias",
            "norm.weight",
        )
    }
    assert [depth for depth, _ in depths.values()] == [0, 0, 1, 2, 2, 3, 4, 4, 5]
    assert {total for _, total in depths.values()} == {6}
    assert model.get_layer_depth("head.fc.weight", "backbone.") == (5, 6)
    shared_norms = small(transforms=False)
    assert shared_norms.get_layer_depth("blocks.0.norm1.0.weight")[0] == 2
    assert small(share=4).get_layer_depth("blocks.0.attn.qkv.weight")[0] == 4


# Features


@pytest.mark.parametrize("window_size", [0, 3])
@pytest.mark.parametrize("with_cp", [False, True])
def test_features_are_the_projections_and_the_outputs(window_size, with_cp):
    options = dict(window_size=window_size, global_blocks=(3,), with_cp=with_cp)
    model = exact(small(out_type="raw", final_norm=False, **options))
    x = images(2, 3, 64, 80)
    outs, features = model.forward_features(x, (0, 1, 3))
    torch.testing.assert_close(outs, model(x))
    assert sorted(features) == [0, 1, 3]
    assert torch.equal(features[3].hidden, outs[0])
    every = small(out_type="raw", final_norm=False, out_indices=(0, 1), **options).double()
    every.load_state_dict(model.state_dict())
    assert torch.equal(every.eval()(x)[1], features[1].hidden)

    block = model.blocks[0]
    expected = block.attn.qkv(block.norm1[1](features[0].hidden)).chunk(3, dim=-1)
    if window_size:
        expected = [_windows(t.unflatten(1, (4, 5)), 3) for t in expected]
    for found, tensor in zip(features[1].qkv, expected, strict=True):
        torch.testing.assert_close(found, tensor)
    assert features[3].qkv[0].shape == (2, 20, 24)  # a global layer


def _windows(maps: Tensor, side: int) -> Tensor:
    """Maps (B, H, W, C) in windows, zeros outside, one after the other."""
    height, width = maps.shape[1:3]
    padded = torch.nn.functional.pad(maps, (0, 0, 0, -width % side, 0, -height % side))
    parts = [
        padded[b, top : top + side, left : left + side].flatten(0, 1)
        for b in range(len(maps))
        for top in range(0, padded.shape[1], side)
        for left in range(0, padded.shape[2], side)
    ]
    return torch.stack(parts)


def test_features_of_layers_behind_the_outputs():
    model = exact(small(out_type="raw", out_indices=0))
    x = images(1, 3, 64, 64)
    (out,), features = model.forward_features(x, [2])
    assert torch.equal(out, model(x)[0])
    assert features[2].hidden.shape == (1, 16, 24)


# Loading and storing


def test_position_embedding_is_resampled_on_load():
    source, target = small(img_size=224), small(img_size=384, window_size=3)
    assert not target.load_state_dict(source.state_dict()).missing_keys
    expected = adapt_position_embedding(source.pos_embed, target.pos_embed, (24, 24), 0)
    assert target.pos_embed.shape == (1, 576, 24)
    torch.testing.assert_close(target.pos_embed, expected)
    assert torch.equal(target.blocks[1].rel_pos[1].table, source.blocks[1].rel_pos[1].table)


def test_loads_weights_with_a_class_token():
    source = small(with_cls_token=True, **DENSE)
    target = small(**DENSE)
    assert not target.load_state_dict(source.state_dict()).missing_keys
    assert torch.equal(target.pos_embed, source.pos_embed[:, 1:])


def test_deepcopy_and_pickle_keep_one_owner():
    """EMA deep-copies and checkpoints pickle: each weight must stay one parameter."""
    model = copy.deepcopy(small())
    state = pickle.loads(pickle.dumps(model.state_dict()))
    pointers = [value.untyped_storage().data_ptr() for value in state.values()]
    assert len(set(pointers)) == len(pointers) == len(list(model.parameters()))
    again = pickle.loads(pickle.dumps(model)).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(x)[0], model.eval()(x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model = small(window_size=3, out_type="featmap")
    with torch.autocast("cpu", dtype=dtype):
        (out,) = model(torch.randn(2, 3, 64, 80))
    out.float().sum().backward()
    grads = [p.grad for p in model.parameters()]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmpretrain"])
def test_resolves_from_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type="MiniDeiT", arch=SMALL))
    assert type(model) is MiniDeiT


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(arch="huge"), "arch='huge' is unknown: choose one of"),
        (dict(arch=dict(dim=8, depth=2)), "a dict needs exactly"),
        (dict(arch=dict(dim=10, depth=2, num_heads=3)), "dim=10 .* num_heads=3"),
        (dict(share=3), "share=3 does not divide the 4 layers"),
        (dict(share=0), "share=0 does not divide the 4 layers"),
        (dict(share=(2, 2)), "does not divide the 4 layers"),
        (dict(transforms=("local",)), "transforms=.* choose True, False or a subset"),
        (dict(transforms="norm"), "transforms='norm' is unknown"),
        (dict(tied=("mlp",)), "tied=.* choose True, False or a subset"),
        (dict(out_type="map"), "out_type='map' is unknown"),
        (dict(out_type="cls_token"), "needs with_cls_token=True"),
        (dict(with_cls_token=True), "need with_cls_token=False"),
        (dict(with_cls_token=True, transforms=False, window_size=7), "need with_cls_token=False"),
        (dict(out_indices=(0, 4)), "must name blocks between -4 and 3"),
        (dict(out_indices=()), "out_indices"),
        (dict(global_blocks=(9,)), "global_blocks"),
        (dict(frozen_stages=3), "frozen_stages=3 is not between -1 and 2"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        small(**options)
