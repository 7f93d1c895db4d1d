"""The parts of halving as a whole that tests of the tool do not reach."""

import pytest
import torch
from test_halving_vits import SIZE, images, vit
from torch import nn

from halvit_mm.halving import run
from halvit_mm.halving.pairing import pair
from halvit_mm.halving.reconstruction import Reconstruction
from halvit_mm.halving.run import _compare, _fit_head, _halve_unit


def halve_first_unit(lr):
    pairing = pair(vit(), vit(seed=1, tied=False), SIZE)
    torch.manual_seed(2)
    x = images(16)
    with torch.no_grad():
        a, b = pairing.enter_half(x), pairing.enter_dense(x)
        (wanted,) = pairing.units[0].run_dense(b)
    return _halve_unit(
        pairing.units[0],
        a,
        b,
        wanted,
        method="reconstruction",
        options=Reconstruction(steps=40, batch_size=8, lr=lr),
        generator=torch.Generator().manual_seed(0),
    )


def test_a_unit_that_diverges_begins_anew_more_slowly(monkeypatch):
    fast = halve_first_unit(lr=2.0)
    assert fast.error < 0.6 * fast.error_start
    hopeless = halve_first_unit(lr=1e6)
    assert hopeless.error == hopeless.error_start  # put back
    monkeypatch.setattr(run, "_SLOWER", (1,))
    once = halve_first_unit(lr=2.0)
    assert once.error == once.error_start  # so it did not get there at first


@torch.no_grad()
def test_a_head_is_fitted_to_scores():
    """Where features tell the scores it finds the weights; where they say nothing, they stay."""
    torch.manual_seed(0)
    features = torch.randn(200, 6)
    features[:, 5] = 0  # says nothing
    truth, head = nn.Linear(6, 4), nn.Linear(6, 4)
    untold = head.weight[:, 5].clone()
    scores = truth(features)
    before = (head(features) - scores).square().mean()
    _fit_head(head, features, scores)
    assert (head(features) - scores).square().mean() < 1e-2 * before
    assert torch.allclose(head.weight[:, 5], untold)


def test_agreement_and_divergence():
    dense = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 4.0]])
    half = dense.clone()
    half[0] = half[0].flip(0)
    same, apart = _compare(half, dense)
    assert same == 0.75
    p = torch.tensor([2.0, 0.0]).double().softmax(0)
    assert apart == pytest.approx(float((p * (p / p.flip(0)).log()).sum()) / 4)
    assert _compare(dense, dense) == (1.0, 0.0)
