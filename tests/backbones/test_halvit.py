"""HaLViT: counts, shapes, equations, options and what happens on load."""

import copy

import pytest
import torch
from mmengine.registry import MODELS

from halvit_mm.backbones import HaLViT
from halvit_mm.layers import DenseAttention, DenseFFN, TiedAttention, TiedFFN

SMALL = dict(dim=24, depth=4, num_heads=3)


def small(**options) -> HaLViT:
    torch.manual_seed(0)
    return HaLViT(**{"arch": SMALL, "img_size": 64, **options})


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("arch", "params"), [("nano", 2_870_208), ("tiny", 11_048_832), ("medium", 43_331_328)]
)
def test_parameter_counts(arch, params):
    model = HaLViT(arch=arch)
    assert count(model) == params
    assert sum(t.numel() for t in model.state_dict().values()) == params
    dim, depth = model.embed_dims, model.num_layers
    # With a 1000-class head, as the paper counts: 72 d² + 2125 d + 1000 at depth 12.
    assert count(model) + 1000 * dim + 1000 == 6 * depth * dim**2 + 2125 * dim + 1000


def test_dense_twin_has_the_untied_weights():
    tied, dense = HaLViT(arch="tiny"), HaLViT(arch="tiny", tied=False)
    assert count(dense) - count(tied) == 12 * 6 * 384**2


@pytest.mark.parametrize(
    ("tied", "attn", "ffn"),
    [
        (True, TiedAttention, TiedFFN),
        (False, DenseAttention, DenseFFN),
        (("ffn",), DenseAttention, TiedFFN),
        (["attn"], TiedAttention, DenseFFN),
        ((), DenseAttention, DenseFFN),
    ],
)
def test_tied_selects_the_layers(tied, attn, ffn):
    for block in small(tied=tied).blocks:
        assert type(block.attn) is attn
        assert type(block.ffn) is ffn


def test_equals_its_dense_twin_with_copied_weights():
    """The tied model is the dense one whose weights satisfy the paper's equalities."""
    tied, dense = small().double().eval(), small(tied=False).double().eval()
    for parameter in tied.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = tied.state_dict()
    for i in range(4):
        attn, ffn = f"blocks.{i}.attn.", f"blocks.{i}.ffn."
        w_q, w_kv = state.pop(attn + "weight").split(24)
        state[attn + "qkv.weight"] = torch.cat((w_q, w_kv, w_kv.T))
        state[attn + "qkv.bias"] = state.pop(attn + "bias_qkv")
        state[attn + "proj.weight"] = w_q.T
        state[attn + "proj.bias"] = state.pop(attn + "bias_out")
        w = state.pop(ffn + "weight")
        state[ffn + "fc1.weight"], state[ffn + "fc2.weight"] = w, w.T
        state[ffn + "fc1.bias"] = state.pop(ffn + "bias_in")
        state[ffn + "fc2.bias"] = state.pop(ffn + "bias_out")
    dense.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(tied(x)[0], dense(x)[0], rtol=0, atol=1e-10)


def test_tokens_are_row_major_patches():
    """With blocks that add nothing, the map is the patch embedding plus the position embedding."""
    model = small(
        with_cls_token=False, out_type="featmap", layer_scale=0.0, final_norm=False
    ).double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    out = model(x)[0]
    assert out.shape == (1, 24, 4, 4)
    patch = x[0, :, 16:32, 48:64]  # second row, fourth column: token 7
    expected = (model.patch_embed.weight * patch).sum((1, 2, 3)) + model.patch_embed.bias
    torch.testing.assert_close(out[0, :, 1, 3], expected + model.pos_embed[0, 7])


SIZES = [(224, 224), (384, 640), (223, 331)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("window_size", [0, 5, 14])
@pytest.mark.parametrize("training", [True, False])
def test_any_input_size(size, window_size, training):
    model = small(
        img_size=224,
        with_cls_token=False,
        out_type="featmap",
        out_indices=(1, 3),
        window_size=window_size,
        global_blocks=(3,),
        drop_path_rate=0.1,
    ).train(training)
    outs = model(torch.randn(2, 3, *size))
    expected = (2, 24, -(-size[0] // 16), -(-size[1] // 16))
    assert [tuple(out.shape) for out in outs] == [expected, expected]
    assert all(out.isfinite().all() for out in outs)
    if training:
        sum(out.square().mean() for out in outs).backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_class_token_at_any_size(size):
    (out,) = small(img_size=224)(torch.randn(2, 3, *size))
    assert out.shape == (2, 24)


@pytest.mark.parametrize("rel_pos", [False, True])
def test_window_at_least_as_large_as_the_map_equals_global(rel_pos):
    options = dict(with_cls_token=False, out_type="featmap", rel_pos=rel_pos)
    whole = small(**options).double().eval()
    windowed = small(**options, window_size=4).double().eval()
    larger = small(**{**options, "rel_pos": False}, window_size=14).double().eval()
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 3, 60, 64, dtype=torch.float64)
    windowed.load_state_dict(whole.state_dict())
    torch.testing.assert_close(windowed(x)[0], whole(x)[0], rtol=0, atol=1e-10)
    if not rel_pos:
        larger.load_state_dict(whole.state_dict())
        torch.testing.assert_close(larger(x)[0], whole(x)[0], rtol=0, atol=1e-10)
    narrower = small(**{**options, "rel_pos": False}, window_size=2).double().eval()
    narrower.load_state_dict(whole.state_dict(), strict=False)
    assert (narrower(x)[0] - whole(x)[0]).abs().max() > 1e-3


def test_padding_fills_up_to_a_whole_patch():
    """An image of 50 × 41 pixels equals the same image zero-padded to 64 × 48."""
    model = small(with_cls_token=False, out_type="featmap").eval()
    x = torch.randn(1, 3, 50, 41)
    padded = torch.nn.functional.pad(x, (0, 7, 0, 14))
    torch.testing.assert_close(model(x)[0], model(padded)[0])


def test_out_types_agree():
    outs = {}
    for out_type in ("raw", "cls_token", "avg_featmap", "featmap"):
        model = small(out_type=out_type).eval()
        (outs[out_type],) = model(torch.ones(2, 3, 48, 64))
    raw = outs["raw"]
    assert raw.shape == (2, 1 + 12, 24)
    torch.testing.assert_close(outs["cls_token"], raw[:, 0])
    torch.testing.assert_close(outs["avg_featmap"], raw[:, 1:].mean(1))
    torch.testing.assert_close(outs["featmap"].flatten(2).transpose(1, 2), raw[:, 1:])
    assert outs["featmap"].shape == (2, 24, 3, 4)


def test_out_indices_are_the_blocks_outputs():
    model = small(out_type="raw", out_indices=(0, -1)).eval()
    x = torch.randn(1, 3, 64, 64)
    first, last = model(x)
    (only_last,) = small(out_type="raw").eval()(x)
    (only_first,) = small(out_type="raw", out_indices=0).eval()(x)
    torch.testing.assert_close(last, only_last)
    torch.testing.assert_close(first, only_first)
    torch.testing.assert_close(last.mean(-1), torch.zeros(1, 17), rtol=0, atol=1e-5)  # normalised


def test_mlp_ratio_patch_size_and_channels():
    model = small(patch_size=8, in_channels=1, mlp_ratio=2.5, with_cls_token=False)
    assert model.blocks[0].ffn.weight.shape == (60, 24)
    assert model.pos_embed.shape == (1, 64, 24)
    assert model(torch.randn(1, 1, 64, 64))[0].shape == (1, 24)


def test_checkpointing_changes_nothing():
    plain, recomputed = small().train(), small(with_cp=True).train()
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, recomputed):
        model(x)[0].exp().sum().backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("frozen_stages", [-1, 0, 2, 4])
def test_frozen_stages(frozen_stages):
    model = small(frozen_stages=frozen_stages, drop_path_rate=0.5).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad] or [torch.nn.Parameter(torch.zeros(1))],
        lr=0.1,
    )
    out = model(torch.randn(16, 3, 64, 64))[0]
    if out.requires_grad:
        (out * torch.randn(24)).sum().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        depth, _ = model.get_layer_depth(name)
        frozen = depth <= frozen_stages or (frozen_stages == 4 and depth == 5)
        assert torch.equal(value, before[name]) == frozen, name
    assert [block.training for block in model.blocks] == [i >= frozen_stages for i in range(4)]


def test_layer_depths():
    model = small()
    depths = {
        name: model.get_layer_depth("backbone." + name, "backbone.")
        for name in (
            "pos_embed",
            "cls_token",
            "patch_embed.weight",
            "blocks.0.attn.weight",
            "blocks.3.ffn.bias_in",
            "norm.weight",
        )
    }
    assert {name: depth for name, (depth, _) in depths.items()} == {
        "pos_embed": 0,
        "cls_token": 0,
        "patch_embed.weight": 0,
        "blocks.0.attn.weight": 1,
        "blocks.3.ffn.bias_in": 4,
        "norm.weight": 5,
    }
    assert {total for _, total in depths.values()} == {6}
    assert model.get_layer_depth("head.fc.weight", "backbone.") == (5, 6)


def test_loads_weights_of_another_size_without_class_token():
    source = small(img_size=64)
    target = small(img_size=(96, 128), with_cls_token=False, out_type="featmap", window_size=3)
    result = target.load_state_dict(source.state_dict(), strict=True)
    assert not result.missing_keys
    torch.testing.assert_close(
        target.pos_embed.mean(), source.pos_embed[:, 1:].mean(), rtol=0, atol=2e-3
    )
    assert torch.equal(target.blocks[2].attn.weight, source.blocks[2].attn.weight)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(arch="huge"), "arch='huge' is unknown: choose one of"),
        (dict(arch=dict(dim=8, depth=2)), "a dict needs exactly"),
        (dict(arch=dict(dim=10, depth=2, num_heads=3)), "dim=10 .* num_heads=3"),
        (dict(tied=("mlp",)), "tied=.* choose True, False or a subset"),
        (dict(tied="ffn"), "tied='ffn' is unknown"),
        (dict(out_type="map"), "out_type='map' is unknown"),
        (dict(out_type="cls_token", with_cls_token=False), "needs with_cls_token=True"),
        (dict(window_size=7), "need with_cls_token=False"),
        (dict(rel_pos=True), "need with_cls_token=False"),
        (dict(out_indices=(0, 4)), "must name blocks between -4 and 3"),
        (dict(out_indices=()), "out_indices"),
        (dict(global_blocks=(9,)), "global_blocks"),
        (dict(frozen_stages=5), "frozen_stages=5 is not between -1 and 4"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        small(**options)


@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmpretrain"])
def test_resolves_from_every_scope(scope):
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(type="HaLViT", arch=SMALL))
    assert type(model) is HaLViT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model = small(with_cls_token=False, window_size=3)
    with torch.autocast("cpu", dtype=dtype):
        (out,) = model(torch.randn(2, 3, 64, 64))
    out.float().sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )


def test_deepcopy_and_pickle_keep_one_owner(tmp_path):
    """EMA deep-copies and checkpoints pickle: each weight must stay one parameter."""
    model = copy.deepcopy(small())
    torch.save(model.state_dict(), tmp_path / "model.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    pointers = [value.untyped_storage().data_ptr() for value in state.values()]
    assert len(set(pointers)) == len(pointers)
    assert (tmp_path / "model.pth").stat().st_size < 1.2 * 4 * count(model) + 20_000
