"""Averages of dense weights: exact where nothing is lost, better with symmetries resolved."""

from copy import deepcopy

import pytest
import torch

from halvit_mm.halving import symmetries
from halvit_mm.halving.averaging import average_attention, average_ffn
from halvit_mm.layers import DenseAttention, DenseFFN, SignedGELU, TiedAttention, TiedFFN

DIM, HIDDEN, HEADS = 24, 40, 3


def randomised(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double()


def signed():
    return SignedGELU(HIDDEN)


def dense_ffn_of(tied):
    """The dense layer that computes the same: W2 = Wᵀ, with the signs."""
    dense = DenseFFN(DIM, HIDDEN).double()
    signs = tied.act.signs if isinstance(tied.act, SignedGELU) else torch.ones(HIDDEN)
    with torch.no_grad():
        dense.fc1.weight.copy_(tied.weight)
        dense.fc1.bias.copy_(tied.bias_in)
        dense.fc2.weight.copy_(tied.weight.t() * signs)
        dense.fc2.bias.copy_(tied.bias_out)
    return dense


def dense_attention_of(tied):
    """The dense layer that computes the same: W_v = W_kᵀ, W_o = W_qᵀ."""
    dense = DenseAttention(DIM, HEADS).double()
    w_q, w_kv = tied.weight.detach().chunk(2)
    with torch.no_grad():
        dense.qkv.weight.copy_(torch.cat((w_q, w_kv, w_kv.t())))
        dense.qkv.bias.copy_(tied.bias_qkv)
        dense.proj.weight.copy_(w_q.t())
        dense.proj.bias.copy_(tied.bias_out)
    return dense


def apart(a, b):
    x = torch.randn(2, 7, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return (a(x) - b(x)).abs().max()


def rotations():
    return torch.linalg.qr(torch.randn(HEADS, 8, 8, dtype=torch.float64))[0]


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("options", [{}, dict(second_scale=True), dict(second_rank=2)], ids=str)
def test_a_tied_feed_forward_is_found_again(align, options):
    tied = randomised(TiedFFN(DIM, HIDDEN))
    half = TiedFFN(DIM, HIDDEN, **options).double()
    dense = dense_ffn_of(tied)
    average_ffn(half, [dense], align=align)
    assert apart(half, dense) < 1e-10


def test_signs_go_where_units_cancel():
    """Hidden units in another order than the alternating signs need are sorted by alignment."""
    tied = randomised(TiedFFN(DIM, HIDDEN, act_layer=signed))
    dense = dense_ffn_of(tied)
    half = TiedFFN(DIM, HIDDEN, act_layer=signed).double()
    average_ffn(half, [dense], align=False)
    assert apart(half, dense) < 1e-10
    symmetries.permute_hidden_units(dense, torch.arange(HIDDEN).roll(1))
    average_ffn(half, [dense], align=False)
    assert apart(half, dense) > 0.1
    average_ffn(half, [dense], align=True)
    assert apart(half, dense) < 1e-10


def test_scales_take_over_multiples():
    """A second weight whose rows are multiples of the first one's, also negative, costs none."""
    tied = randomised(TiedFFN(DIM, HIDDEN))
    dense = dense_ffn_of(tied)
    with torch.no_grad():
        dense.fc2.weight.mul_(torch.linspace(-2, 2, HIDDEN).double())
    half = TiedFFN(DIM, HIDDEN, second_scale=True).double()
    average_ffn(half, [dense], align=False)
    assert apart(half, dense) > 0.1
    average_ffn(half, [dense], align=True)
    assert apart(half, dense) < 1e-10


def test_ranks_take_over_the_largest_part_of_the_rest():
    dense = randomised(DenseFFN(DIM, HIDDEN))
    errors = []
    for rank in (0, 4, 12, DIM - 1):
        half = TiedFFN(DIM, HIDDEN, second_rank=rank).double()
        average_ffn(half, [dense], align=True)
        second = half.weight.t()
        if rank:
            second = second + half.second.up @ half.second.down
        errors.append(float((second - dense.fc2.weight).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("options", [{}, dict(second_scale=True), dict(second_rank=2)], ids=str)
def test_tied_attention_is_found_again(align, options):
    tied = randomised(TiedAttention(DIM, HEADS))
    half = TiedAttention(DIM, HEADS, **options).double()
    dense = dense_attention_of(tied)
    assert apart(tied, dense) < 1e-10
    average_attention(half, [dense], align=align)
    assert apart(half, dense) < 1e-10


def test_turning_heads_brings_transposes_nearer():
    """In any dense layer what is averaged agrees better afterwards, and stays the same function."""
    dense = randomised(DenseAttention(DIM, HEADS))
    turned = deepcopy(dense)
    from halvit_mm.halving.averaging import _turn_towards_transposes

    with torch.no_grad():
        _turn_towards_transposes(turned)

    def agreement(attn):
        queries, keys, values = attn.qkv.weight.detach().chunk(3)
        return float((queries * attn.proj.weight.t()).sum() + (keys * values.t()).sum())

    assert apart(dense, turned) < 1e-10
    assert agreement(turned) > abs(agreement(dense)) + 1


@pytest.mark.parametrize("count", [2, 3])
def test_equal_layers_behind_symmetries_are_found(count):
    """Layers that one block of MiniViT serves: permuted and rotated copies become one again."""
    attn, ffn = randomised(DenseAttention(DIM, HEADS)), randomised(DenseFFN(DIM, HIDDEN))
    attns, ffns = [attn], [ffn]
    for _ in range(count - 1):
        attns.append(deepcopy(attn))
        symmetries.permute_heads(attns[-1], torch.tensor([2, 0, 1]))
        symmetries.change_query_key_basis(attns[-1], rotations())
        symmetries.change_value_basis(attns[-1], rotations())
        ffns.append(deepcopy(ffn))
        symmetries.permute_hidden_units(ffns[-1], torch.randperm(HIDDEN))
    half_attn, half_ffn = DenseAttention(DIM, HEADS).double(), DenseFFN(DIM, HIDDEN).double()
    average_attention(half_attn, attns, align=False)
    average_ffn(half_ffn, ffns, align=False)
    assert apart(half_attn, attn) > 0.1
    assert apart(half_ffn, ffn) > 0.1
    before = [deepcopy(layer.state_dict()) for layer in (*attns, *ffns)]
    orders = average_attention(half_attn, attns, align=True)
    average_ffn(half_ffn, ffns, align=True)
    assert apart(half_attn, attn) < 1e-9
    assert apart(half_ffn, ffn) < 1e-9
    assert [order.tolist() for order in orders] == [[0, 1, 2]] + (count - 1) * [[1, 2, 0]]
    for layer, weights in zip((*attns, *ffns), before, strict=True):  # dense layers stay
        assert all(torch.equal(value, weights[name]) for name, value in layer.state_dict().items())


def test_both_methods_together():
    """Two tied layers behind symmetries of heads and hidden units, into one tied layer."""
    tied = randomised(TiedFFN(DIM, HIDDEN))
    ffns = [dense_ffn_of(tied), dense_ffn_of(tied)]
    symmetries.permute_hidden_units(ffns[1], torch.randperm(HIDDEN))
    half = TiedFFN(DIM, HIDDEN).double()
    average_ffn(half, ffns, align=True)
    assert apart(half, ffns[0]) < 1e-9
