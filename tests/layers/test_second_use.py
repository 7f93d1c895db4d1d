"""Corrections of a weight's second use: what they compute, what they cost."""

import pytest
import torch

from halvit_mm.backbones import HaLViT
from halvit_mm.layers import SecondUse, TiedAttention, TiedFFN

DIM, HIDDEN = 12, 20


def randomised(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module.double()


@torch.no_grad()
def test_formula_of_the_feed_forward():
    """Wᵀ diag(s) F(W x + b1) + U D F(W x + b1) + b2."""
    torch.manual_seed(0)
    ffn = randomised(TiedFFN(DIM, HIDDEN, second_scale=True, second_rank=3))
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    hidden = torch.nn.functional.gelu(x @ ffn.weight.t() + ffn.bias_in)
    second = torch.diag(ffn.second.scale) @ ffn.weight
    expected = hidden @ second + hidden @ (ffn.second.up @ ffn.second.down).t() + ffn.bias_out
    assert (ffn(x) - expected).abs().max() < 1e-10
    assert (hidden @ ffn.weight + ffn.bias_out - ffn(x)).abs().max() > 1e-3


@torch.no_grad()
def test_formula_of_attention():
    """The values' and the output's weights are W_kvᵀ and W_qᵀ, each with corrections of its own."""
    torch.manual_seed(0)
    attn = randomised(TiedAttention(DIM, 3, second_scale=True, second_rank=2))
    x = torch.randn(2, 5, DIM, dtype=torch.float64)
    w_q, w_kv = attn.weight.chunk(2)
    values, out = attn.second_values, attn.second_out
    w_v = w_kv.t() @ torch.diag(values.scale) + values.up @ values.down
    w_o = w_q.t() @ torch.diag(out.scale) + out.up @ out.down
    q, k, v = (
        (x @ w.t() + b).unflatten(-1, (3, -1)).transpose(1, 2)
        for w, b in zip((w_q, w_kv, w_v), attn.bias_qkv.chunk(3), strict=True)
    )
    maps = (q @ k.mT / 2).softmax(-1)  # heads of 4 channels
    expected = (maps @ v).transpose(1, 2).flatten(2) @ w_o.t() + attn.bias_out
    assert (attn(x) - expected).abs().max() < 1e-10


@pytest.mark.parametrize(
    "make", [lambda **o: TiedFFN(DIM, HIDDEN, **o), lambda **o: TiedAttention(DIM, 3, **o)]
)
def test_starts_without_effect(make):
    torch.manual_seed(0)
    corrected = make(second_scale=True, second_rank=2)
    plain = make()
    assert not plain.load_state_dict(corrected.state_dict(), strict=False).missing_keys
    x = torch.randn(2, 5, DIM)
    assert torch.allclose(corrected(x), plain(x), atol=1e-6)


def test_parameters_that_corrections_cost():
    """Rows of W for a scale; rows + columns for each rank; three weights are used a second time."""
    arch = dict(dim=24, depth=2, num_heads=3)

    def count(**options):
        backbone = HaLViT(arch=arch, img_size=32, **options)
        return sum(p.numel() for p in backbone.parameters())

    plain = count()
    assert count(second_scale=True) - plain == 2 * (24 + 24 + 96)
    assert count(second_rank=5) - plain == 2 * 5 * (48 + 48 + 120)
    assert count(tied=False, second_scale=True) == count(tied=False)


@pytest.mark.parametrize("rank", [-1, DIM])
def test_refuses_ranks(rank):
    with pytest.raises(ValueError, match=f"second_rank={rank} is not between 0 and 11"):
        TiedFFN(DIM, HIDDEN, second_rank=rank)


def test_gradients_reach_every_part():
    torch.manual_seed(0)
    ffn = randomised(TiedFFN(DIM, HIDDEN, second_scale=True, second_rank=3))
    x = torch.randn(1, 3, DIM, dtype=torch.float64)
    parameters = list(ffn.parameters())
    assert torch.autograd.gradcheck(lambda *_: ffn(x), parameters)
    assert isinstance(ffn.second, SecondUse)
