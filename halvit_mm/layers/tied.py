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
        signs = torch.ones(channels)
        signs[1::2] = -1
        self.register_buffer("signs", signs, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, channels) → (…, channels)."""
        return F.gelu(x) * self.signs.to(x.dtype)


class TiedFFN(nn.Module):
    """Feed-forward layer with one weight: ``FFN(x) = Wᵀ F(W x + b1) + b2``.

    Args:
        dim: Width of the tokens.
        hidden_dim: Width of the hidden layer.
        act_layer: Makes the activation F.
        init_std: Standard deviation of the initial weight.

    Parameters: ``weight (hidden_dim, dim)``, ``bias_in (hidden_dim)``, ``bias_out (dim)``.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(hidden_dim, dim))
        self.bias_in = nn.Parameter(torch.empty(hidden_dim))
        self.bias_out = nn.Parameter(torch.empty(dim))
        self.act = act_layer()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weight and zero biases, as ViTs are initialised."""
        nn.init.trunc_normal_(self.weight, std=self.init_std)
        nn.init.zeros_(self.bias_in)
        nn.init.zeros_(self.bias_out)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        hidden = self.act(F.linear(x, self.weight, self.bias_in))
        return F.linear(hidden, self.weight.t(), self.bias_out)

    def extra_repr(self) -> str:
        hidden_dim, dim = self.weight.shape
        return f"dim={dim}, hidden_dim={hidden_dim}"


class TiedAttention(MultiHeadAttention):
    """Multi-head attention with two square weights instead of four.

    ``x̂ = MHA(W_q x, W_kv x, W_kvᵀ x)``, output ``W_qᵀ x̂``: the keys' weight is the values',
    transposed, and the queries' weight is the output's, transposed.

    Args:
        dim: Width of the tokens.
        num_heads: Number of heads; must divide ``dim``.
        init_std: Standard deviation of the initial weights.

    Parameters: ``weight (2 dim, dim)`` holds the rows [W_q; W_kv], so that queries and keys come
    from one matrix product; ``bias_qkv (3 dim)`` and ``bias_out (dim)``.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int, *, init_std: float = 0.02) -> None:
        super().__init__(dim, num_heads)
        self.init_std = init_std
        self.weight = nn.Parameter(torch.empty(2 * dim, dim))
        self.bias_qkv = nn.Parameter(torch.empty(3 * dim))
        self.bias_out = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weights and zero biases, as ViTs are initialised."""
        nn.init.trunc_normal_(self.weight, std=self.init_std)
        nn.init.zeros_(self.bias_qkv)
        nn.init.zeros_(self.bias_out)

    def project_in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bias_qk, bias_v = self.bias_qkv.split((2 * self.dim, self.dim))
        q, k = F.linear(x, self.weight, bias_qk).chunk(2, dim=-1)
        w_kv = self.weight[self.dim :]
        return q, k, F.linear(x, w_kv.t(), bias_v)

    def project_out(self, x: Tensor) -> Tensor:
        w_q = self.weight[: self.dim]
        return F.linear(x, w_q.t(), self.bias_out)
