"""The dense twins of the tied layers: same interface, every use with a weight of its own."""

from collections.abc import Callable

from torch import Tensor, nn

from .attention import MultiHeadAttention
from .checks import check_number, check_whole
from .linear import Linear


class DenseFFN(nn.Module):
    """Feed-forward layer ``W2 F(W1 x + b1) + b2``; the twin of :class:`TiedFFN`.

    Args:
        dim: Width of the tokens.
        hidden_dim: Width of the hidden layer.
        act_layer: Makes the activation F.
        init_std: Standard deviation of the initial weights.
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
        check_whole(dim=dim, hidden_dim=hidden_dim)
        self.fc1 = Linear(dim, hidden_dim)
        self.act = act_layer()
        self.fc2 = Linear(hidden_dim, dim)
        init_linears(self, init_std)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        return self.fc2(self.act(self.fc1(x)))


class DenseAttention(MultiHeadAttention):
    """Multi-head attention with four square weights; the twin of :class:`TiedAttention`.

    Args:
        dim: Width of the tokens.
        num_heads: Number of heads; must divide ``dim``.
        init_std: Standard deviation of the initial weights.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int, *, init_std: float = 0.02) -> None:
        super().__init__(dim, num_heads)
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        init_linears(self, init_std)

    def project_in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.qkv(x).chunk(3, dim=-1)

    def project_out(self, x: Tensor) -> Tensor:
        return self.proj(x)


def init_linears(module: nn.Module, std: float) -> None:
    """Truncated normal weights and zero biases for every ``nn.Linear`` inside.

    Raises:
        ValueError: ``std`` is not above 0.
    """
    check_number(above=0, init_std=std)
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.trunc_normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
