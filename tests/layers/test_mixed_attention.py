"""Attention piece by piece against attention all at once, written from its formula."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from halvit_mm.layers import HeadMixer
from halvit_mm.layers.mixed_attention import mixed_attention
from halvit_mm.layers.relative_position import (
    DecomposedRelativePosition,
    ImageRelativePosition,
    WindowRelativePosition,
)

BATCH, HEADS, SIZE, HEAD_DIM = 3, 2, (4, 5), 6
TOKENS = SIZE[0] * SIZE[1]


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    module = module.double()
    for i, parameter in enumerate(module.parameters()):
        parameter.data = drawn(*parameter.shape, seed=seed + i)
    return module


REL_POS = {
    "none": None,
    "image": lambda: ImageRelativePosition(HEAD_DIM),
    "window": lambda: WindowRelativePosition((6, 6), HEADS),
    "decomposed": lambda: DecomposedRelativePosition(SIZE, HEAD_DIM),
}
MASKS = {
    "none": None,
    "keys": torch.rand(BATCH, 1, 1, TOKENS, generator=torch.Generator().manual_seed(7)) > 0.3,
    "pairs": torch.rand(BATCH, 1, TOKENS, TOKENS, generator=torch.Generator().manual_seed(8)) > 0.3,
}
#: Elements of a piece's maps, and the number of pieces that follows.
PIECES = {10**6: 1, 2 * HEADS * TOKENS**2: 2, HEADS * TOKENS**2: 3, HEADS * TOKENS * 7: 9, 1: 60}


def set_pieces(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halvit_mm.layers.mixed_attention.CPU_ELEMENTS", elements)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.mark.parametrize("elements", PIECES)
@pytest.mark.parametrize("rel_pos", REL_POS)
@pytest.mark.parametrize("mask", MASKS)
def test_pieces_make_up_the_whole(elements, rel_pos, mask, monkeypatch):
    set_pieces(elements, monkeypatch)
    rel_pos = None if REL_POS[rel_pos] is None else randomised(REL_POS[rel_pos](), seed=20)
    mask = MASKS[mask]
    mixers = [randomised(HeadMixer(HEADS, bias=True), seed=10 + i) for i in range(2)]
    q, k, v = (drawn(BATCH, HEADS, TOKENS, HEAD_DIM, seed=i).requires_grad_() for i in range(3))

    logits = q @ k.transpose(2, 3) / HEAD_DIM**0.5
    if rel_pos is not None:
        logits = logits + rel_pos(q, SIZE)
    logits = torch.einsum("oi,bixy->boxy", mixers[0].weight, logits)
    logits = logits + mixers[0].bias[:, None, None]
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    weights = torch.einsum("oi,bixy->boxy", mixers[1].weight, logits.softmax(3))
    weights = weights + mixers[1].bias[:, None, None]
    expected = (weights @ v).transpose(1, 2).reshape(BATCH, TOKENS, HEADS * HEAD_DIM)

    out = mixed_attention(
        q,
        k,
        v,
        mix_logits=mixers[0],
        mix_weights=mixers[1],
        rel_pos=rel_pos and (lambda queries: rel_pos.for_queries(SIZE, queries)),
        mask=mask,
    )
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    learned = [q, k, v, *mixers[0].parameters(), *mixers[1].parameters()]
    learned += [] if rel_pos is None else list(rel_pos.parameters())
    probe = drawn(*out.shape, seed=30)
    for found, of_formula in zip(
        torch.autograd.grad(out, learned, probe),
        torch.autograd.grad(expected, learned, probe),
        strict=True,
    ):
        torch.testing.assert_close(found, of_formula, rtol=1e-9, atol=1e-9)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that an operator makes, and how often it ran."""

    elements, softmaxes = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        self.softmaxes += func is torch.ops.aten._softmax.default
        return out


@pytest.mark.parametrize("elements", PIECES)
def test_no_map_is_larger_than_a_piece_forwards_or_backwards(elements, monkeypatch):
    set_pieces(elements, monkeypatch)
    q = drawn(BATCH, HEADS, TOKENS, HEAD_DIM, seed=0).requires_grad_()
    mixer = randomised(HeadMixer(HEADS), seed=1)
    with LargestTensor() as forwards:
        out = mixed_attention(q, q, q, mix_weights=mixer)
    with LargestTensor() as backwards:
        out.sum().backward()
    for mode in (forwards, backwards):
        assert mode.softmaxes == PIECES[elements]
        largest = max(HEADS * TOKENS, elements, q.numel())
        assert mode.elements <= largest


def test_backward_keeps_no_maps():
    q = torch.randn(1, HEADS, 100, HEAD_DIM, requires_grad=True)
    kept = []
    mixer = HeadMixer(HEADS)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        mixed_attention(q, q, q, mix_logits=mixer, mix_weights=mixer)
    assert max((t.numel() for t in kept if isinstance(t, torch.Tensor)), default=0) <= q.numel()
