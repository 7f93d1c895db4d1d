"""HaLViT's two layers: one weight W serves twice, as W and as its transpose.

Source: Koyun and Töreyin, "HaLViT: Half of the Weights are Enough", CVPRW 2024. Each weight is one
``nn.Parameter`` and the second use is functional, so that optimisers, EMA, DDP and checkpoints see
it once; autograd adds the gradients of both uses.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import MultiHeadAttention
from .checks import check_number, check_whole
from .linear import autocast, check_width, is_exporting, linear, rows, runs_as_written
from .second_use import SecondUse, make_second_use


class SignedGELU(nn.Module):
    """GELU with a minus sign on every second channel, an activation F for :class:`TiedFFN`.

    Ours. With plain GELU, a hidden unit of a tied layer writes along the very row of W that it
    reads from, and GELU is mostly positive: near zero the layer is ½ WᵀW, which is positive
    semi-definite, so that units can only reinforce what they find. Signs let half of them cancel
    it, and the layer starts with a mean of zero, as a dense one does. They cost no parameter.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_whole(channels=channels)
        signs = torch.ones(channels)
        signs[1::2] = -1
        self.register_buffer("signs", signs, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, channels) → (…, channels)."""
        if runs_as_written():
            check_width(x, len(self.signs))  # a single channel would be multiplied to all
        return F.gelu(x) * self.signs.to(x.dtype)


class TiedFFN(nn.Module):
    """Feed-forward layer with one weight: ``FFN(x) = Wᵀ F(W x + b1) + b2``.

    Args:
        dim: Width of the tokens.
        hidden_dim: Width of the hidden layer.
        act_layer: Makes the activation F.
        init_std: Standard deviation of the initial weight.
        second_scale: Gives Wᵀ a scale of each hidden unit, which may be negative.
        second_rank: Rank of a matrix of its own that is added to Wᵀ; 0 leaves it out.

    Parameters: ``weight (hidden_dim, dim)``, ``bias_in (hidden_dim)``, ``bias_out (dim)``, and
    those of ``second`` (:class:`SecondUse`) if it is asked for.

    Raises:
        ValueError: A width or ``init_std`` is not above 0, or ``second_rank`` is negative or too
            large; in :meth:`forward`, the input's width is not ``dim``.
        TypeError: In :meth:`forward`, the input is of another type than the weight.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        init_std: float = 0.02,
        second_scale: bool = False,
        second_rank: int = 0,
    ) -> None:
        super().__init__()
        check_whole(dim=dim, hidden_dim=hidden_dim)
        check_number(above=0, init_std=init_std)
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(hidden_dim, dim))
        self.bias_in = nn.Parameter(torch.empty(hidden_dim))
        self.bias_out = nn.Parameter(torch.empty(dim))
        self.act = act_layer()
        self.second = make_second_use(hidden_dim, dim, scale=second_scale, rank=second_rank)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weight and zero biases, as ViTs are initialised."""
        nn.init.trunc_normal_(self.weight, std=self.init_std)
        nn.init.zeros_(self.bias_in)
        nn.init.zeros_(self.bias_out)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        inputs = autocast(x, self.weight, self.bias_in, self.bias_out)
        if self.second is not None:
            x, weight, bias_in, bias_out = inputs
            return self.second(_hidden(x, weight, bias_in, self.act), weight, bias_out)
        act_learns = any(p.requires_grad for p in self.act.parameters())
        if torch.is_grad_enabled() and runs_as_written() and not act_learns:
            return _TiedFFN.apply(*inputs, self.act)
        return _tied_ffn(*inputs, self.act)

    def extra_repr(self) -> str:
        hidden_dim, dim = self.weight.shape
        return f"dim={dim}, hidden_dim={hidden_dim}"


def _tied_ffn(
    x: Tensor, weight: Tensor, bias_in: Tensor, bias_out: Tensor, act: nn.Module
) -> Tensor:
    return linear(_hidden(x, weight, bias_in, act), weight.t(), bias_out)


def _hidden(x: Tensor, weight: Tensor, bias_in: Tensor, act: nn.Module) -> Tensor:
    if _is_gelu(act):
        return linear(x, weight, bias_in, gelu=True)
    return act(linear(x, weight, bias_in))


class _TiedFFN(torch.autograd.Function):
    """Keeps the hidden layer before F only, and adds W's two gradients in place.

    PyTorch by itself would keep it after F as well, a quarter of what a transformer block keeps,
    and hold both gradients, each as large as W, until it adds them to a third.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias_in: Tensor, bias_out: Tensor, act: nn.Module
    ) -> Tensor:
        hidden = linear(x, weight, bias_in)
        ctx.act = act
        ctx.save_for_backward(x, weight, bias_in, bias_out, hidden)
        return linear(act(hidden), weight.t(), bias_out)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias_in, bias_out, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():  # asked for gradients of gradients
            inputs = [t for t in (x, weight, bias_in, bias_out) if t.requires_grad]
            out = _tied_ffn(x, weight, bias_in, bias_out, ctx.act)
            found = iter(torch.autograd.grad(out, inputs, grad, create_graph=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:4]), None

        of_x, of_weight, of_bias_in, of_bias_out, _ = ctx.needs_input_grad
        activated, gradient_of_hidden = _activate(ctx.act, hidden)
        grad_weight = rows(activated).t() @ rows(grad) if of_weight else None
        grad_hidden = gradient_of_hidden(linear(grad, weight))
        if of_weight:
            grad_weight.addmm_(rows(grad_hidden).t(), rows(x))
        return (
            linear(grad_hidden, weight.t()) if of_x else None,
            grad_weight,
            rows(grad_hidden).sum(0) if of_bias_in else None,
            rows(grad).sum(0) if of_bias_out else None,
            None,
        )


def _activate(act: nn.Module, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """``act(x)``, and what turns its gradient, once and perhaps in place, into that of ``x``."""
    if _is_gelu(act):
        backward = torch.ops.aten.gelu_backward.grad_input
        return F.gelu(x), lambda grad: backward(grad, x, approximate="none", grad_input=grad)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        activated = act(x)
    return activated.detach(), lambda grad: torch.autograd.grad(activated, x, grad)[0]


def _is_gelu(act: nn.Module) -> bool:
    return type(act) is nn.GELU and act.approximate == "none"


class TiedAttention(MultiHeadAttention):
    """Multi-head attention with two square weights instead of four.

    ``x̂ = MHA(W_q x, W_kv x, W_kvᵀ x)``, output ``W_qᵀ x̂``: the keys' weight is the values',
    transposed, and the queries' weight is the output's, transposed.

    Args:
        dim: Width of the tokens.
        num_heads: Number of heads; must divide ``dim``.
        init_std: Standard deviation of the initial weights.
        second_scale: Gives W_kvᵀ and W_qᵀ a scale of each channel that they read.
        second_rank: Rank of a matrix of its own that is added to either; 0 leaves it out.

    Parameters: ``weight (2 dim, dim)`` holds the rows [W_q; W_kv], so that queries and keys come
    from one matrix product; ``bias_qkv (3 dim)`` and ``bias_out (dim)``, and those of
    ``second_values`` and ``second_out`` (:class:`SecondUse`) if they are asked for.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``, or ``second_rank`` is negative or
            too large.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        init_std: float = 0.02,
        second_scale: bool = False,
        second_rank: int = 0,
    ) -> None:
        super().__init__(dim, num_heads)
        check_number(above=0, init_std=init_std)
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(2 * dim, dim))
        self.bias_qkv = nn.Parameter(torch.empty(3 * dim))
        self.bias_out = nn.Parameter(torch.empty(dim))
        self.second_values = make_second_use(dim, dim, scale=second_scale, rank=second_rank)
        self.second_out = make_second_use(dim, dim, scale=second_scale, rank=second_rank)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weights and zero biases, as ViTs are initialised."""
        nn.init.trunc_normal_(self.weight, std=self.init_std)
        nn.init.zeros_(self.bias_qkv)
        nn.init.zeros_(self.bias_out)

    def project_in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = autocast(x, self.weight, self.bias_qkv)
        w_q, w_kv = weight[: self.dim], weight[self.dim :]
        b_q, b_k, b_v = (bias[i * self.dim : (i + 1) * self.dim] for i in range(3))
        if is_exporting():  # graphs hold W_q and W_kv once if no product takes the two together
            q, k = linear(x, w_q, b_q), linear(x, w_kv, b_k)
        else:
            q, k = linear(x, weight, bias[: 2 * self.dim]).chunk(2, dim=-1)
        return q, k, _second(self.second_values, x, w_kv, b_v)

    def project_out(self, x: Tensor) -> Tensor:
        return _second(self.second_out, x, self.weight[: self.dim], self.bias_out)


def _second(second: SecondUse | None, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if second is None:
        return linear(x, weight.t(), bias)
    return second(x, weight, bias)
