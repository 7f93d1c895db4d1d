"""Derivatives of all layers with shared weights, against finite differences in double precision.

Weights count as inputs. First and second derivatives are checked, with inputs laid out oddly or
empty, with parts that do not learn, recomputed, and through the transforms of ``torch.func``.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from odd_inputs import random
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from halvit_mm.layers import (
    DecomposedRelativePosition,
    DenseAttention,
    DenseFFN,
    HeadMixer,
    ImageRelativePosition,
    LayerNorm2d,
    LocalConv,
    MultiplexedBlock,
    SignedGELU,
    TiedAttention,
    TiedFFN,
    TiedResNetStage,
    TiedResNeXtStage,
    TransformerBlock,
    WindowLayout,
    WindowRelativePosition,
)
from halvit_mm.layers.checkpointing import checkpointed
from halvit_mm.layers.linear import linear

TOKENS = (2, 4, 4)
SIZE = (2, 2)
STAGE = dict(width=2, depth=2, dilation=1, groups=1, norm=nn.BatchNorm2d)

#: A layer, what it is called with after its input, and the input's shape.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple, tuple[int, ...]]] = {
    "ffn": (lambda: TiedFFN(4, 6), (), TOKENS),
    "ffn_tanh": (
        lambda: TiedFFN(4, 6, act_layer=partial(nn.GELU, approximate="tanh")),
        (),
        TOKENS,
    ),
    "ffn_signed": (lambda: TiedFFN(4, 6, act_layer=partial(SignedGELU, 6)), (), TOKENS),
    "ffn_learned_act": (lambda: TiedFFN(4, 6, act_layer=nn.PReLU), (), TOKENS),
    "ffn_second": (lambda: TiedFFN(4, 6, second_scale=True, second_rank=1), (), TOKENS),
    "attention": (lambda: TiedAttention(4, 2), (), TOKENS),
    "attention_second": (
        lambda: TiedAttention(4, 2, second_scale=True, second_rank=1),
        (),
        TOKENS,
    ),
    "dense_ffn": (lambda: DenseFFN(4, 6), (), TOKENS),
    "dense_attention": (lambda: DenseAttention(4, 2), (), TOKENS),
    "mixer": (lambda: HeadMixer(2, bias=True), (), (2, 2, 3, 3)),
    "local": (lambda: LocalConv(4, 3), (SIZE,), TOKENS),
    "image_position": (lambda: ImageRelativePosition(2), (SIZE,), (1, 2, 4, 2)),
    "split_position": (lambda: DecomposedRelativePosition((3, 2), 2), (SIZE,), (1, 2, 4, 2)),
    "block": (
        lambda: TransformerBlock(4, 2, 6, layer_scale=0.7, window=(2, 1), rel_pos_size=(2, 1)),
        (SIZE,),
        (1, 4, 4),
    ),
    "multiplexed": (
        lambda: MultiplexedBlock(
            4,
            2,
            6,
            steps=2,
            tied=("attn", "ffn"),
            transforms=("norm", "mix_logits", "mix_weights", "rel_pos"),
        ),
        (WindowLayout(SIZE), 1),
        (1, 4, 4),
    ),
    "shifted_windows": (
        lambda: MultiplexedBlock(
            4, 2, 6, steps=1, tied=("attn",), window_rel_pos=(2, 2), mixer_bias=True
        ),
        (WindowLayout((3, 2), (2, 2), shift=(1, 1)), 0),
        (1, 6, 4),
    ),
    "norm": (lambda: LayerNorm2d(3), (), (2, 3, 2, 2)),
    "resnet_stage": (lambda: TiedResNetStage(2, 4, stride=2, **STAGE), (), (2, 2, 4, 3)),
    "resnext_stage": (lambda: TiedResNeXtStage(2, 4, stride=2, **STAGE), (), (2, 2, 4, 3)),
}
WITH_OWN_BACKWARD = ("ffn", "ffn_tanh", "ffn_signed")


def made(name: str) -> tuple[nn.Module, tuple, Tensor]:
    """A layer with random parameters, its further arguments, and an input."""
    make, arguments, shape = LAYERS[name]
    layer = make().double()
    for i, parameter in enumerate(layer.parameters()):
        parameter.data = 0.6 * random(*parameter.shape, dtype=torch.float64, seed=i + 1)
    return layer, arguments, random(*shape, dtype=torch.float64).requires_grad_()


def of_everything(
    layer: nn.Module, arguments: tuple, *, with_cp: bool = False
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The layer as a function of its input and its parameters, and the latter."""
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *values: Tensor) -> Tensor:
        # BatchNorm's running statistics would move from one evaluation to the next.
        buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
        state = {**dict(zip(names, values, strict=True)), **buffers}

        def run(x: Tensor) -> Tensor:
            return functional_call(layer, state, (x, *arguments))

        return checkpointed(layer, x, method=run) if with_cp else run(x)

    return function, [p.detach().clone().requires_grad_() for p in layer.parameters()]


@pytest.fixture(autouse=True)
def attention_that_can_be_differentiated_twice():
    """PyTorch's quick kernel of attention for the CPU has no second derivative and says so."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def test_quick_attention_says_that_it_has_no_second_derivative():
    layer, _, x = made("attention")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        (grad,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
            grad.sum().backward()


@pytest.mark.parametrize("name", LAYERS)
def test_first_and_second_derivatives(name):
    layer, arguments, x = made(name)
    function, values = of_everything(layer, arguments)
    assert gradcheck(function, (x, *values), fast_mode=True)
    assert gradgradcheck(function, (x, *values), fast_mode=True)


@pytest.mark.parametrize("name", ["ffn", "ffn_signed", "attention", "multiplexed", "resnet_stage"])
def test_derivatives_element_by_element(name):
    layer, arguments, x = made(name)
    function, values = of_everything(layer, arguments)
    assert gradcheck(function, (x, *values))


@pytest.mark.parametrize("name", ["ffn", "attention", "multiplexed", "shifted_windows"])
def test_derivatives_of_what_is_recomputed(name):
    layer, arguments, x = made(name)
    function, values = of_everything(layer, arguments, with_cp=True)
    assert gradcheck(function, (x, *values), fast_mode=True)


@pytest.mark.parametrize("name", ["ffn", "attention", "multiplexed", "shifted_windows"])
def test_parameters_that_were_lent_are_those_that_are_learned(name):
    """``functional_call`` takes them back before the backward pass computes anything again."""
    layer, arguments, x = made(name)
    lent = {name: (p + 0.3).detach().requires_grad_() for name, p in layer.named_parameters()}
    inputs = [x, *lent.values()]
    out = functional_call(layer, lent, (x, *arguments))
    found = torch.autograd.grad(out.square().sum(), inputs, allow_unused=True)
    layer.load_state_dict(lent, strict=False)
    own = layer(x, *arguments).square().sum()
    expected = torch.autograd.grad(own, [x, *layer.parameters()], allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.mT.contiguous().mT,
        lambda x: torch.stack((x, x), -1)[..., 0],
        lambda x: x[:1, :1].expand(2, 4, 4),
        lambda x: x[:0],
        lambda x: x[:, :1],
    ],
    ids=["swapped", "transposed", "strided", "expanded", "empty", "one_token"],
)
@pytest.mark.parametrize("name", ["ffn", "ffn_signed", "ffn_second", "attention"])
def test_derivatives_for_inputs_laid_out_oddly(name, layout):
    layer, arguments, x = made(name)
    function, values = of_everything(layer, arguments)

    def laid_out(x: Tensor, *values: Tensor) -> Tensor:
        return function(layout(x), *values)

    assert gradcheck(laid_out, (x, *values), fast_mode=True)
    assert gradgradcheck(laid_out, (x, *values), fast_mode=True)


@pytest.mark.parametrize("learning", range(1, 16))
@pytest.mark.parametrize("name", WITH_OWN_BACKWARD)
def test_derivatives_whatever_learns(name, learning):
    """Any of the input, the weight and the two biases."""
    layer, arguments, x = made(name)
    function, values = of_everything(layer, arguments)
    inputs = [x.detach(), *(value.detach() for value in values)]
    assert len(inputs) == 4
    for i, value in enumerate(inputs):
        value.requires_grad_(bool(learning >> i & 1))
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize(
    "grad",
    [
        random(2, 4, 4, dtype=torch.float64).mT,
        random(4, 2, 4, dtype=torch.float64).transpose(0, 1),
        torch.ones((), dtype=torch.float64).expand(2, 4, 4),
        random(2, 4, 8, dtype=torch.float64)[..., ::2],
    ],
    ids=["transposed", "swapped", "expanded", "strided"],
)
@pytest.mark.parametrize("name", ["ffn", "ffn_signed", "attention", "dense_ffn"])
def test_gradients_may_come_laid_out_oddly(name, grad):
    layer, _, x = made(name)
    inputs = [x, *layer.parameters()]
    out = layer(x)
    found = torch.autograd.grad(out, inputs, grad, retain_graph=True)
    expected = torch.autograd.grad(out, inputs, grad.contiguous())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*is not a double precision:UserWarning")
def test_linear_by_onednn_has_the_derivatives_of_its_formula(monkeypatch):
    """oneDNN knows no double precision: the backward pass is checked, and numbers in single."""
    monkeypatch.setattr("halvit_mm.layers.linear._LEAST_PRODUCTS", 1)
    inputs = [random(2, 3, 5, seed=1), random(4, 5, seed=2), random(4, seed=3)]
    inputs = [t.requires_grad_() for t in inputs]
    assert gradcheck(linear, inputs, eps=1e-2, atol=2e-3, rtol=1e-3, nondet_tol=1e-5)


class OneTermLess(torch.autograd.Function):
    """``(x wᵀ) w`` whose backward pass forgets that ``w`` was used twice."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t() @ weight

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight.t() @ weight, (x @ weight.t()).t() @ grad


def test_the_check_can_fail():
    inputs = [random(3, 4, dtype=torch.float64), random(5, 4, dtype=torch.float64, seed=1)]
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(OneTermLess.apply, [t.requires_grad_() for t in inputs], fast_mode=True)


TRANSFORMED = ("ffn", "ffn_second", "attention", "dense_attention", "multiplexed", "block")


@pytest.mark.parametrize("name", TRANSFORMED)
def test_forward_mode_is_the_derivative(name):
    """By ``torch.func.jvp`` and by dual numbers, along a direction."""
    layer, arguments, x = made(name)
    x = x.detach()
    direction = random(*x.shape, dtype=torch.float64, seed=9)

    def run(x: Tensor) -> Tensor:
        return layer(x, *arguments)

    out, tangent = torch.func.jvp(run, (x,), (direction,))
    step = 1e-6
    differences = (run(x + step * direction) - run(x - step * direction)) / (2 * step)
    torch.testing.assert_close(out, run(x))
    torch.testing.assert_close(tangent, differences, rtol=1e-6, atol=1e-7)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(run(forward_ad.make_dual(x, direction)))
    torch.testing.assert_close(dual.tangent, tangent)


@pytest.mark.parametrize("name", TRANSFORMED)
def test_samples_can_be_differentiated_one_by_one(name):
    layer, arguments, x = made(name)
    x = torch.cat((x, 2 * x)).detach()
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x[None], *arguments)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i, sample in enumerate(x):
        # Of other steps of a block nothing is used.
        expected = torch.autograd.grad(
            loss(parameters, sample), parameters.values(), allow_unused=True
        )
        for name, grad in zip(parameters, expected, strict=True):
            right = torch.zeros_like(each[name][i]) if grad is None else grad
            torch.testing.assert_close(each[name][i], right)


def test_position_by_window_has_a_derivative():
    layer = WindowRelativePosition((2, 3), 2).double()
    q = random(1, 2, 6, 2, dtype=torch.float64)

    def logits(table: Tensor) -> Tensor:
        return functional_call(layer, {"table": table}, (q, (2, 3)))

    assert gradcheck(logits, (layer.table,)) and gradgradcheck(logits, (layer.table,))


def test_the_backward_pass_of_what_is_recomputed_may_run_again():
    """With ``retain_graph``; BatchNorm's statistics move once all the same."""
    stages = [
        TiedResNetStage(2, 4, stride=1, with_cp=with_cp, **STAGE) for with_cp in (True, False)
    ]
    stages[1].load_state_dict(stages[0].state_dict())
    x = random(2, 2, 4, 3)
    gradients = []
    for stage in stages:
        loss = stage(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        gradients.append([p.grad for p in stage.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(*(stage.buffers() for stage in stages), strict=True):
        torch.testing.assert_close(ours, theirs)
