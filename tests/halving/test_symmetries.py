"""Each symmetry leaves the outputs of a dense model as they are, to 1e-10 in fp64."""

import pytest
import torch
from torch import nn

from halvit_mm.backbones import HaLViT
from halvit_mm.halving import symmetries
from halvit_mm.layers import DenseAttention

HEADS = 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = HaLViT(
        arch=dict(dim=24, depth=2, num_heads=HEADS),
        tied=False,
        img_size=16,
        patch_size=4,
        init_std=0.3,
        layer_scale=0.5,
    ).double()
    for parameter in model.parameters():  # no bias is zero, no scale is one
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.eval()


def bases(*, orthogonal=False):
    matrices = torch.randn(HEADS, 8, 8, dtype=torch.float64)
    return torch.linalg.qr(matrices)[0] if orthogonal else matrices + 4 * torch.eye(8)


SYMMETRIES = {
    "hidden units": lambda b: symmetries.permute_hidden_units(b.ffn, torch.randperm(96)),
    "heads": lambda b: symmetries.permute_heads(b.attn, torch.tensor([2, 0, 1])),
    "queries and keys": lambda b: symmetries.change_query_key_basis(b.attn, bases()),
    "rotated queries and keys": lambda b: symmetries.change_query_key_basis(
        b.attn, bases(orthogonal=True)
    ),
    "values": lambda b: symmetries.change_value_basis(b.attn, bases()),
    "rotated values": lambda b: symmetries.change_value_basis(b.attn, bases(orthogonal=True)),
    "scale of norm1": lambda b: symmetries.rescale_norm(b.norm1, b.attn.qkv, scales()),
    "scale of norm2": lambda b: symmetries.rescale_norm(b.norm2, b.ffn.fc1, scales()),
}


def scales():
    return torch.randn(24, dtype=torch.float64) + 3 * torch.randn(24).sign()


@torch.no_grad()
@pytest.mark.parametrize("name", SYMMETRIES)
def test_outputs_stay(model, name):
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before, weights = model(images)[0], [p.clone() for p in model.parameters()]
    for block in model.blocks:
        SYMMETRIES[name](block)
    assert (model(images)[0] - before).abs().max() < 1e-10
    changed = sum(not torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert changed >= 2 * len(model.blocks)


@torch.no_grad()
def test_signs_of_hidden_units_are_not_free(model):
    """Why there is no such symmetry: GELU is not odd."""
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = model(images)[0]
    ffn = model.blocks[0].ffn
    for tensor in (ffn.fc1.weight, ffn.fc1.bias, ffn.fc2.weight):
        tensor.neg_()
    assert (model(images)[0] - before).abs().max() > 1e-3


@torch.no_grad()
def test_order_says_what_comes_first(model):
    attn: DenseAttention = model.blocks[0].attn
    rows = attn.qkv.weight.clone()
    symmetries.permute_heads(attn, torch.tensor([2, 0, 1]))
    assert torch.equal(attn.qkv.weight[:8], rows[16:24])
    assert torch.equal(attn.qkv.weight[24 + 8 : 24 + 16], rows[24:32])
    ffn = model.blocks[0].ffn
    unit = ffn.fc1.weight[5].clone()
    symmetries.permute_hidden_units(ffn, torch.arange(96).roll(-5))
    assert torch.equal(ffn.fc1.weight[0], unit)
    assert isinstance(ffn.fc2, nn.Linear)
