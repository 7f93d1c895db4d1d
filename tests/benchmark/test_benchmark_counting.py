"""Floating point operations and bytes moved, of computations small enough to count by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from halvit_mm.benchmark.counting import count_flops, count_moved_bytes, roofline
from halvit_mm.layers import TiedFFN


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_linear_layer(mode):
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    with mode():
        assert count_flops(lambda: layer(x)) == 2 * 3 * 5 * 7
        assert count_moved_bytes(lambda: layer(x)) == 4 * (3 * 5 + 7 * 5 + 7 + 3 * 7)


def test_a_training_step_counts_both_directions():
    layer, x = nn.Linear(5, 7), torch.randn(3, 5, requires_grad=True)
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * 2 * 3 * 5 * 7


def test_a_convolution():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert count_flops(lambda: layer(x)) == 2 * 2 * 4 * 6 * 6 * 27
        elements = x.numel() + 4 * 27 + 4 + 2 * 4 * 36
        assert count_moved_bytes(lambda: layer(x)) == 4 * elements


def test_attention_counts_two_products_and_moves_no_scores():
    q = torch.randn(2, 4, 16, 8)
    with torch.inference_mode():
        attend = lambda: F.scaled_dot_product_attention(q, q, q)  # noqa: E731
        assert count_flops(attend) == 2 * (2 * 2 * 4 * 16 * 16 * 8)
        scores = 4 * 2 * 4 * 16 * 16
        assert 4 * q.nbytes <= count_moved_bytes(attend) < 4 * q.nbytes + scores


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_tied_layers_count_whatever_multiplies(mode):
    """Sharing weights saves no arithmetic, by whichever library and direction."""
    layer, x = TiedFFN(16, 64), torch.randn(2, 9, 16)
    with mode():
        assert count_flops(lambda: layer(x)) == 2 * 2 * 18 * 16 * 64


def test_a_training_step_of_a_tied_layer_counts_all_six_products():
    layer, x = TiedFFN(16, 64), torch.randn(2, 9, 16, requires_grad=True)
    step = lambda: layer(x).backward(torch.ones(2, 9, 16))  # noqa: E731
    assert count_flops(step) == 6 * 2 * 18 * 16 * 64


def test_rates_of_this_machine():
    rates = roofline(1, "cpu")
    assert set(rates) == {"fp32", "bf16", "bytes"}
    # Slower than any CPU of this century, faster than any of this decade.
    assert all(1e8 < rate < 1e14 for rate in rates.values())
