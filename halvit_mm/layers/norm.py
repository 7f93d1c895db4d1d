"""Layer normalisation of channel-first maps."""

from torch import Tensor, nn
from torch.nn import functional as F

from .checks import check_maps


class LayerNorm2d(nn.LayerNorm):
    """Normalises every pixel of a map (B, C, H, W) over its C channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W).

        Raises:
            ValueError: The map has other channels.
            TypeError: It is no tensor.
        """
        check_maps(x, self.normalized_shape[0])
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)
