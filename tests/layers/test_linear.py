"""Linear layers by oneDNN, and what the tied feed-forward keeps, against PyTorch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from halvit_mm.layers import SignedGELU, TiedFFN
from halvit_mm.layers.linear import _ONEDNN, Linear, linear

ONEDNN = "mkldnn::_linear_pointwise"
DIM, HIDDEN, TOKENS = 6, 20, 7


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def operators(call) -> set[str]:
    with Operators() as mode:
        call()
    return mode.names


def drawn(*shape: int, seed: int = 0, **options) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


needs_onednn = pytest.mark.skipif(_ONEDNN is None, reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def _onednn_for_small_products(monkeypatch):
    monkeypatch.setattr("halvit_mm.layers.linear._LEAST_PRODUCTS", 1)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
def test_results_and_gradients_are_those_of_pytorch(shape, bias, transposed, gelu):
    x = drawn(*shape, seed=1).requires_grad_()
    owner = drawn(5, 4, seed=2) if transposed else drawn(4, 5, seed=2)
    weight = owner.requires_grad_().t() if transposed else owner.requires_grad_()
    inputs = [x, owner] + ([drawn(4, seed=3).requires_grad_()] if bias else [])
    b = inputs[2] if bias else None

    ours = linear(x, weight, b, gelu=gelu)
    theirs = F.gelu(F.linear(x, weight, b)) if gelu else F.linear(x, weight, b)
    torch.testing.assert_close(ours, theirs)
    for grads in zip(
        torch.autograd.grad(ours.square().sum(), inputs),
        torch.autograd.grad(theirs.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(*grads)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, b, gelu=gelu), theirs.detach())


def test_gradients_of_gradients():
    inputs = [drawn(3, 5, seed=1), drawn(4, 5, seed=2), drawn(4, seed=3)]
    inputs = [t.requires_grad_() for t in inputs]
    found = []
    for function in (linear, F.linear):
        loss = function(*inputs).pow(3).sum()
        grads = torch.autograd.grad(loss, inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in grads), inputs))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_onednn_takes_a_transposed_weight_as_it_lies():
    x, weight, bias = drawn(3, 5), drawn(5, 4), drawn(4)
    assert operators(lambda: linear(x, weight.t(), bias)) == {"aten::t", ONEDNN}
    assert operators(lambda: linear(x, weight.t(), bias, gelu=True)) == {"aten::t", ONEDNN}


@needs_onednn
def test_training_multiplies_by_onednn_in_both_directions():
    layer = Linear(5, 4)
    out = layer(drawn(3, 5).requires_grad_())
    names = operators(out.sum().backward)
    assert ONEDNN in names and not names & {"aten::mm", "aten::addmm", "aten::bmm"}


def test_pytorch_does_what_onednn_is_not_asked_for():
    layer = Linear(5, 4)
    x = drawn(3, 5)
    assert ONEDNN not in operators(lambda: layer.double()(x.double()))
    layer.float()
    # The gradient of a sum is one number, expanded.
    assert ONEDNN not in operators(lambda: linear(x, torch.ones(1, 1).expand(4, 5)))
    with torch.autocast("cpu", torch.float16):
        assert ONEDNN not in operators(lambda: layer(x))
    with torch.backends.mkldnn.flags(enabled=False):
        assert ONEDNN not in operators(lambda: layer(x))
    assert Linear(5, 4, device="meta")(x.to("meta")).shape == (3, 4)
    assert ONEDNN not in str(torch.jit.trace(layer, x).inlined_graph)
    assert ONEDNN not in operators(lambda: torch.func.vmap(layer)(x))


@needs_onednn
def test_small_products_are_left_to_pytorch(monkeypatch):
    monkeypatch.undo()
    assert ONEDNN not in operators(lambda: linear(drawn(3, 5), drawn(4, 5)))
    assert ONEDNN in operators(lambda: linear(drawn(1024, 256), drawn(256, 256)))


class Kept:
    """Bytes that the backward pass keeps of what a module computes; its inputs do not count."""

    def __init__(self, module: nn.Module, x: torch.Tensor) -> None:
        given = {p.untyped_storage().data_ptr() for p in (x, *module.parameters())}
        found: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in given:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.out = module(x)
        self.bytes = sum(found.values())


@pytest.mark.parametrize("act_layer", [nn.GELU, lambda: SignedGELU(HIDDEN), nn.ReLU])
def test_tied_ffn_keeps_one_hidden_layer(act_layer):
    x = drawn(2, TOKENS, DIM).requires_grad_()
    ffn = TiedFFN(DIM, HIDDEN, act_layer=act_layer)
    assert Kept(ffn, x).bytes == 2 * TOKENS * HIDDEN * 4


@pytest.mark.parametrize(
    "act_layer",
    [nn.GELU, lambda: nn.GELU(approximate="tanh"), lambda: SignedGELU(HIDDEN), nn.PReLU],
)
def test_tied_ffn_gradients_are_those_of_its_formula(act_layer):
    ffn = TiedFFN(DIM, HIDDEN, act_layer=act_layer, init_std=0.5).double()
    nn.init.normal_(ffn.bias_in)
    x = drawn(2, TOKENS, DIM, dtype=torch.float64).requires_grad_()
    inputs = [x, *ffn.parameters()]

    hidden = ffn.act(x @ ffn.weight.t() + ffn.bias_in)
    formula = hidden @ ffn.weight + ffn.bias_out
    expected = torch.autograd.grad(formula.square().sum(), inputs)
    out = ffn(x)
    found = torch.autograd.grad(out.square().sum(), inputs, retain_graph=True)
    again = torch.autograd.grad(out.square().sum(), inputs)
    torch.testing.assert_close(out, formula)
    for gradients in zip(found, again, expected, strict=True):
        torch.testing.assert_close(gradients[0], gradients[2])
        torch.testing.assert_close(gradients[1], gradients[2])
    assert torch.autograd.gradgradcheck(ffn, (x[:1, :2].detach().requires_grad_(),))


@pytest.mark.parametrize("frozen", ["weight", "bias_in", "bias_out"])
def test_tied_ffn_with_a_frozen_parameter(frozen):
    ffn = TiedFFN(DIM, HIDDEN)
    getattr(ffn, frozen).requires_grad_(False)
    ffn(drawn(2, TOKENS, DIM)).sum().backward()
    learned = {name for name, p in ffn.named_parameters() if p.grad is not None}
    assert learned == {"weight", "bias_in", "bias_out"} - {frozen}


def test_tied_ffn_can_be_transformed():
    ffn = TiedFFN(DIM, HIDDEN)
    x = drawn(TOKENS, DIM)
    per_token = torch.func.vmap(torch.func.jacrev(lambda t: ffn(t).sum()))(x)
    at_once = torch.func.grad(lambda t: ffn(t).sum())(x)
    torch.testing.assert_close(per_token, at_once)


def test_tied_ffn_under_autocast_is_its_formula_under_autocast():
    ffn = TiedFFN(DIM, HIDDEN, init_std=0.5)
    x = drawn(2, TOKENS, DIM).requires_grad_()
    inputs = [x, *ffn.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        out = ffn(x)
        hidden = F.gelu(F.linear(x, ffn.weight, ffn.bias_in))
        formula = F.linear(hidden, ffn.weight.t(), ffn.bias_out)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, formula)
    found = torch.autograd.grad(out.float().sum(), inputs)
    expected = torch.autograd.grad(formula.float().sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
