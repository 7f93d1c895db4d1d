"""The dense twins of the tied layers: same interface, every use with a weight of its own."""

from torch import Tensor, nn

from .attention import MultiHeadAttention


class DenseFFN(nn.Module):
    """Feed-forward layer ``W2 F(W1 x + b1) + b2``; the twin of :class:`TiedFFN`.

    Args:
        dim: Width of the tokens.
        hidden_dim: Width of the hidden layer.
        act_layer: Class of the activation F.
    """

    def __init__(self, dim: int, hidden_dim: int, *, act_layer: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_dim, dim)
        init_linears(self)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        return self.fc2(self.act(self.fc1(x)))


class DenseAttention(MultiHeadAttention):
    """Multi-head attention with four square weights; the twin of :class:`TiedAttention`.

    Args:
        dim: Width of the tokens.
        num_heads: Number of heads; must divide ``dim``.

    Raises:
        ValueError: ``dim`` is not a multiple of ``num_heads``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        init_linears(self)

    def project_in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.qkv(x).chunk(3, dim=-1)

    def project_out(self, x: Tensor) -> Tensor:
        return self.proj(x)


def init_linears(module: nn.Module) -> None:
    """Truncated normal (std 0.02) weights and zero biases for every ``nn.Linear`` inside."""
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
