"""HaLViT from its dense twin: pairing, exactness, and block-wise reconstruction."""

from copy import deepcopy

import pytest
import torch

from halvit_mm.backbones import HaLViT
from halvit_mm.errors import UserError
from halvit_mm.halving.pairing import pair
from halvit_mm.halving.reconstruction import (
    Reconstruction,
    error_of,
    estimate_norms,
    reconstruct,
    relative_error,
)
from halvit_mm.layers import SecondUse

SIZE = (16, 24)


def vit(seed=0, **options):
    torch.manual_seed(seed)
    options = dict(arch=dict(dim=24, depth=3, num_heads=3), img_size=16, patch_size=4) | options
    model = HaLViT(**options, init_std=0.3).double()
    for name, parameter in model.named_parameters():
        if "second" not in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def untied(half, **options):
    """A dense twin that computes what a HaLViT computes."""
    dense = vit(tied=False, **options)
    weights = half.state_dict()
    for name, block in ((f"blocks.{i}", block) for i, block in enumerate(half.blocks)):
        w_q, w_kv = block.attn.weight.chunk(2)
        w, ffn = weights.pop(f"{name}.ffn.weight"), f"{name}.ffn"
        weights[f"{name}.attn.qkv.weight"] = torch.cat((w_q, w_kv, w_kv.t()))
        weights[f"{name}.attn.qkv.bias"] = weights.pop(f"{name}.attn.bias_qkv")
        weights[f"{name}.attn.proj.weight"] = w_q.t()
        weights[f"{name}.attn.proj.bias"] = weights.pop(f"{name}.attn.bias_out")
        del weights[f"{name}.attn.weight"]
        weights[f"{ffn}.fc1.weight"], weights[f"{ffn}.fc2.weight"] = w, w.t()
        weights[f"{ffn}.fc1.bias"] = weights.pop(f"{ffn}.bias_in")
        weights[f"{ffn}.fc2.bias"] = weights.pop(f"{ffn}.bias_out")
    dense.load_state_dict(weights)
    return dense


def images(count=4):
    return torch.randn(count, 3, *SIZE, dtype=torch.float64)


@torch.no_grad()
def start_all(pairing, *, align):
    for unit in pairing.units:
        unit.start(align=align)


@torch.no_grad()
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize(
    "options", [{}, dict(layer_scale=0.5), dict(with_cls_token=False)], ids=str
)
def test_a_model_that_is_tied_already_halves_without_error(align, options):
    original = vit(**options)
    dense = untied(original, **options)
    x = images()
    assert (original(x)[0] - dense(x)[0]).abs().max() < 1e-10
    half = vit(seed=1, **options)
    pairing = pair(half, dense, SIZE)
    start_all(pairing, align=align)
    assert (half(x)[0] - dense(x)[0]).abs().max() < 1e-9
    inputs = pairing.enter_half(x)
    error = error_of(pairing.units[0], inputs, pairing.enter_dense(x), None, batch_size=2)
    assert error < 1e-18


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, dict(with_cls_token=False, window_size=2)], ids=str)
def test_units_one_after_the_other_are_the_backbone(options):
    half, dense = vit(**options), vit(seed=1, tied=False, **options)
    pairing = pair(half, dense, SIZE)
    x = images()
    a, b = pairing.enter_half(x), pairing.enter_dense(x)
    for unit in pairing.units:
        (a,), (b,) = unit.run_half(a), unit.run_dense(b)
    assert torch.equal(pairing.leave_half(a), half(x)[0])
    assert torch.equal(pairing.leave_dense(b), dense(x)[0])


def test_copies_what_both_have():
    half, dense = vit(), vit(seed=1, tied=False)
    pair(half, dense, SIZE)
    shared = half.state_dict().keys() & dense.state_dict().keys()
    assert {"patch_embed.weight", "cls_token", "blocks.2.norm2.bias", "norm.weight"} <= shared
    assert all(torch.equal(half.state_dict()[name], dense.state_dict()[name]) for name in shared)


@torch.no_grad()
def test_leaves_out_a_class_token():
    """The map's tokens are compared, and the embedding of the patches is the dense one's."""
    half, dense = vit(with_cls_token=False), vit(seed=1, tied=False)
    pairing = pair(half, dense, SIZE)
    x = images()
    a, b = pairing.enter_half(x), pairing.enter_dense(x)
    assert a.shape[1] + 1 == b.shape[1]
    assert torch.allclose(a, pairing.units[0].compared(b))
    with pytest.raises(UserError, match="with_cls_token=False"):
        pair(vit(), vit(tied=False, with_cls_token=False), SIZE)


def test_layer_scale_is_not_dropped():
    with pytest.raises(UserError, match=r"LayerScale: set model.backbone.layer_scale=1.0"):
        pair(vit(), vit(tied=False, layer_scale=0.1), SIZE)


def train(unit, x_half, x_dense, **options):
    targets = unit.run_dense(x_dense)[-1].detach()
    losses = []
    reconstruct(
        unit,
        x_half,
        x_dense,
        targets,
        options=Reconstruction(**options),
        generator=torch.Generator().manual_seed(0),
        advance=losses.append,
    )
    return losses


@pytest.mark.parametrize(
    "options", [{}, dict(signed_ffn=True), dict(second_scale=True, second_rank=2)], ids=str
)
def test_reconstruction_lowers_the_error(options):
    dense = vit(seed=1, tied=False)
    frozen = deepcopy(dense.state_dict())
    pairing = pair(vit(**options), dense, SIZE)
    x = images(16)
    with torch.no_grad():
        a, b = pairing.enter_half(x), pairing.enter_dense(x)
    unit = pairing.units[0]
    unit.start(align=True)
    before = error_of(unit, a, b, None, batch_size=8)
    losses = train(unit, a, b, steps=150, batch_size=8, lr=0.03)
    after = error_of(unit, a, b, None, batch_size=8)
    assert len(losses) == 150
    assert after < 0.35 * before
    assert all(torch.equal(value, frozen[name]) for name, value in dense.state_dict().items())
    corrections = [m for m in unit.half.modules() if isinstance(m, SecondUse)]
    assert bool(corrections) == bool(options.get("second_rank"))


@torch.no_grad()
def test_the_error_of_the_units_before_is_seen():
    """A unit is compared with the dense one by its own input, not by the dense one's."""
    dense = vit(seed=1, tied=False)
    pairing = pair(vit(), dense, SIZE)
    x = images(8)
    b = pairing.enter_dense(x)
    unit = pairing.units[0]
    unit.start(align=True)
    alone = error_of(unit, b, b, None, batch_size=8)
    assert error_of(unit, b + torch.randn_like(b), b, None, batch_size=8) > alone


@torch.no_grad()
def test_what_the_error_measures():
    dense = torch.randn(4, 5, 6, dtype=torch.float64) + torch.arange(6)
    assert relative_error(dense, dense) == 0
    means = dense.mean((0, 1), keepdim=True).expand_as(dense)
    assert torch.isclose(relative_error(means, dense), torch.tensor(1.0, dtype=torch.float64))
    maps = dense.permute(0, 2, 1)[..., None]  # (B, C, H, 1)
    half = torch.randn_like(dense)
    assert torch.isclose(
        relative_error(half, dense), relative_error(half.permute(0, 2, 1)[..., None], maps)
    )


def test_draws_are_repeated_by_seed():
    """The same generator, the same weights: what resuming rests on."""
    results = []
    for _ in range(2):
        pairing = pair(vit(), vit(seed=1, tied=False), SIZE)
        x = torch.randn(
            12, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
        )
        with torch.no_grad():
            a, b = pairing.enter_half(x), pairing.enter_dense(x)
        pairing.units[0].start(align=True)
        losses = train(pairing.units[0], a, b, steps=5, batch_size=5, lr=0.03)
        results.append(losses)
    assert results[0] == results[1]
    assert len(set(results[0])) == 5


def test_norms_are_left_alone_where_there_are_none():
    pairing = pair(vit(), vit(seed=1, tied=False), SIZE)
    with torch.no_grad():
        a = pairing.enter_half(images())
    before = deepcopy(pairing.units[0].half.state_dict())
    estimate_norms(pairing.units[0], a, batch_size=2)
    after = pairing.units[0].half.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("wrong", [dict(steps=-1), dict(batch_size=0), dict(lr=0.0)], ids=str)
def test_refuses_numbers(wrong):
    with pytest.raises(ValueError, match="must be 0 or more"):
        Reconstruction(**wrong)
