"""The tied layers against the paper's equations, evaluated token by token in fp64."""

import math

import pytest
import torch

from halvit_mm.layers import (
    DenseAttention,
    DenseFFN,
    SignedGELU,
    TiedAttention,
    TiedFFN,
)

DIM, HEADS, HIDDEN, TOKENS = (
    12,
    3,
    12,
    7,
)  # hidden = dim: shapes cannot catch an exchanged transpose


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """The module in fp64 with every parameter drawn at random, biases included."""
    module = module.double()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def tokens() -> torch.Tensor:
    return torch.randn(2, TOKENS, DIM, generator=torch.Generator().manual_seed(1)).double()


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def ffn_formula(ffn: TiedFFN, x: torch.Tensor, *, exchange: bool = False) -> torch.Tensor:
    """``Wᵀ F(W x + b1) + b2`` for one token after the other."""
    w = ffn.weight.T if exchange else ffn.weight
    out = [[w.T @ gelu(w @ t + ffn.bias_in) + ffn.bias_out for t in image] for image in x]
    return torch.stack([torch.stack(image) for image in out])


def attention_formula(attn: TiedAttention, x: torch.Tensor, exchange: str = "") -> torch.Tensor:
    """``W_qᵀ MHA(W_q x, W_kv x, W_kvᵀ x)``, head by head; ``exchange`` transposes one weight."""
    w_q, w_kv = attn.weight[:DIM], attn.weight[DIM:]
    w_q = w_q.T if exchange == "q" else w_q
    w_kv = w_kv.T if exchange == "kv" else w_kv
    b_q, b_k, b_v = attn.bias_qkv[:DIM], attn.bias_qkv[DIM : 2 * DIM], attn.bias_qkv[2 * DIM :]
    outs = []
    for image in x:
        q = torch.stack([w_q @ t + b_q for t in image])
        k = torch.stack([w_kv @ t + b_k for t in image])
        v = torch.stack([w_kv.T @ t + b_v for t in image])
        heads = []
        for columns in torch.arange(DIM).chunk(HEADS):
            logits = q[:, columns] @ k[:, columns].T / math.sqrt(DIM // HEADS)
            exp = logits.exp()
            heads.append(exp / exp.sum(1, keepdim=True) @ v[:, columns])
        outs.append(torch.stack([w_q.T @ t + attn.bias_out for t in torch.cat(heads, 1)]))
    return torch.stack(outs)


def test_ffn_equals_the_equation():
    ffn = randomised(TiedFFN(DIM, HIDDEN))
    torch.testing.assert_close(ffn(tokens()), ffn_formula(ffn, tokens()), rtol=0, atol=1e-10)


def test_ffn_check_sees_exchanged_transpose():
    ffn = randomised(TiedFFN(DIM, HIDDEN))
    wrong = ffn_formula(ffn, tokens(), exchange=True)
    assert (ffn(tokens()) - wrong).abs().max() > 0.1


@pytest.mark.parametrize("hidden", [5, 30])
def test_ffn_of_other_widths(hidden):
    ffn = randomised(TiedFFN(DIM, hidden))
    torch.testing.assert_close(ffn(tokens()), ffn_formula(ffn, tokens()), rtol=0, atol=1e-10)


def test_attention_equals_the_equation():
    attn = randomised(TiedAttention(DIM, HEADS))
    torch.testing.assert_close(
        attn(tokens()), attention_formula(attn, tokens()), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("weight", ["q", "kv"])
def test_attention_check_sees_exchanged_transpose(weight):
    attn = randomised(TiedAttention(DIM, HEADS))
    wrong = attention_formula(attn, tokens(), exchange=weight)
    assert (attn(tokens()) - wrong).abs().max() > 0.1


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (
            lambda: TiedFFN(8, 32),
            {"weight": (32, 8), "bias_in": (32,), "bias_out": (8,)},
        ),
        (
            lambda: TiedAttention(8, 2),
            {"weight": (16, 8), "bias_qkv": (24,), "bias_out": (8,)},
        ),
    ],
)
def test_parameters_are_the_contract(layer, shapes):
    module = layer()
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == shapes
    assert {name: tuple(p.shape) for name, p in module.state_dict().items()} == shapes


@pytest.mark.parametrize("layer", [lambda: TiedFFN(6, 9), lambda: TiedAttention(6, 2)])
def test_gradients(layer):
    module = randomised(layer())
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def run(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters))


def test_ffn_gradient_is_the_sum_of_both_uses():
    ffn = randomised(TiedFFN(DIM, HIDDEN))
    twin = DenseFFN(DIM, HIDDEN).double()
    with torch.no_grad():
        twin.fc1.weight.copy_(ffn.weight)
        twin.fc1.bias.copy_(ffn.bias_in)
        twin.fc2.weight.copy_(ffn.weight.T)
        twin.fc2.bias.copy_(ffn.bias_out)
    ffn(tokens()).square().sum().backward()
    twin(tokens()).square().sum().backward()
    torch.testing.assert_close(
        ffn.weight.grad, twin.fc1.weight.grad + twin.fc2.weight.grad.T, rtol=1e-12, atol=1e-10
    )


def test_attention_gradient_is_the_sum_of_both_uses():
    attn = randomised(TiedAttention(DIM, HEADS))
    twin = DenseAttention(DIM, HEADS).double()
    w_q, w_kv = attn.weight.detach().split(DIM)
    with torch.no_grad():
        twin.qkv.weight.copy_(torch.cat((w_q, w_kv, w_kv.T)))
        twin.qkv.bias.copy_(attn.bias_qkv)
        twin.proj.weight.copy_(w_q.T)
        twin.proj.bias.copy_(attn.bias_out)
    out, twin_out = attn(tokens()), twin(tokens())
    torch.testing.assert_close(out, twin_out, rtol=0, atol=1e-10)
    out.square().sum().backward()
    twin_out.square().sum().backward()
    grad_q, grad_k, grad_v = twin.qkv.weight.grad.split(DIM)
    expected = torch.cat((grad_q + twin.proj.weight.grad.T, grad_k + grad_v.T))
    torch.testing.assert_close(attn.weight.grad, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("layer", [TiedAttention, DenseAttention])
@pytest.mark.parametrize("heads", [5, 0])
def test_heads_must_divide_dim(layer, heads):
    with pytest.raises(ValueError, match=f"dim=12 .* num_heads={heads}: choose"):
        layer(12, heads)


def test_mask_hides_keys():
    attn = randomised(TiedAttention(DIM, HEADS))
    x = tokens()
    mask = torch.ones(TOKENS, dtype=torch.bool)
    mask[4:] = False
    torch.testing.assert_close(attn(x, mask=mask[None])[:, :4], attn(x[:, :4]), rtol=0, atol=1e-10)


def test_activation_can_be_chosen():
    ffn = randomised(TiedFFN(DIM, HIDDEN, act_layer=torch.nn.ReLU))
    x = tokens()
    expected = torch.relu(x @ ffn.weight.T + ffn.bias_in) @ ffn.weight + ffn.bias_out
    torch.testing.assert_close(ffn(x), expected, rtol=0, atol=1e-10)


def test_signed_ffn_equals_the_equation():
    """``Wᵀ S GELU(W x + b1) + b2`` with S = diag(1, −1, 1, …), unit by unit."""
    ffn = randomised(TiedFFN(DIM, 5, act_layer=lambda: SignedGELU(5)))
    x = tokens()[0, 0]
    units = [
        (-1) ** i * gelu(w @ x + b) * w
        for i, (w, b) in enumerate(zip(ffn.weight, ffn.bias_in, strict=True))
    ]
    torch.testing.assert_close(ffn(x), sum(units) + ffn.bias_out, rtol=0, atol=1e-12)
    assert "act.signs" not in ffn.state_dict()


@pytest.mark.parametrize(("act", "mean"), [(torch.nn.GELU, 0.5), (lambda: SignedGELU(4096), 0.0)])
def test_signs_remove_the_mean_of_the_first_derivative(act, mean):
    """Near zero the layer is Wᵀ S W / 2, whose mean is ½ σ² · hidden · I without signs."""
    torch.manual_seed(0)
    ffn = TiedFFN(DIM, 4096, act_layer=act, init_std=0.05).double()
    jacobian = torch.autograd.functional.jacobian(ffn, torch.zeros(DIM, dtype=torch.float64))
    assert jacobian.diagonal().mean() / (0.05**2 * 4096) == pytest.approx(mean, abs=0.02)


@pytest.mark.parametrize("layer", [TiedAttention, DenseAttention, TiedFFN, DenseFFN])
def test_init_std(layer):
    torch.manual_seed(0)
    module = layer(96, 3 if "Attention" in layer.__name__ else 384, init_std=0.06)
    for name, parameter in module.named_parameters():
        expected = 0.06 if "weight" in name else 0.0
        assert parameter.std().item() == pytest.approx(expected, rel=0.02), name
