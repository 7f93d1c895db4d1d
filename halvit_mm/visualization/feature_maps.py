"""What a backbone makes of an image: its features as colours, and the channels that vary most."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .activations import activations, check_layers, points


def feature_maps(
    backbone: nn.Module, images: Tensor, layers: Iterable[int] | None = None
) -> dict[int, Tensor]:
    """The outputs of some layers of a vision transformer, or of some stages of a ResNet.

    Args:
        backbone: One of this project's.
        images: What it takes (B, C, height, width).
        layers: Their numbers, from 0; default: :func:`default_layers`.

    Returns:
        Maps (B, C, H, W) by number, of tokens without the class token.

    Raises:
        UserError: There is no such layer, or it is another backbone.
    """
    reached = points(backbone, tuple(images.shape[2:]))
    if layers is None:
        layers = default_layers([point.size for point in reached])
    wanted = check_layers(layers, len(reached))
    maps = activations(backbone, images, [reached[i] for i in wanted])
    return dict(zip(wanted, maps, strict=True))


def default_layers(sizes: list[tuple[int, int] | None]) -> list[int]:
    """Four layers or fewer, given the sizes of all layers' maps.

    Of a backbone with stages the last of each, else layers at even distances up to the last.
    """
    last = len(sizes) - 1
    ends = [i for i in range(last) if sizes[i] != sizes[i + 1]] + [last]
    if len(ends) == 1:
        step = max(1, len(sizes) / 4)
        ends = sorted({round(last - i * step) for i in range(4) if last - i * step >= 0})
    return list(range(len(sizes))) if sizes[0] is None else ends


def principal_components(features: Tensor, count: int = 3) -> tuple[Tensor, float]:
    """The directions in which the features of an image differ most.

    Args:
        features: (C, H, W).
        count: How many of them; where there are fewer, the rest are 0.

    Returns:
        What lies in each direction (count, H, W), each with mean 0; and the share of the variance
        in them, from 0 to 1. The sign of a direction is that of its greatest channel.
    """
    x = features.flatten(1).double()
    x = x - x.mean(dim=1, keepdim=True)  # (C, N)
    # Of the two matrices with the same eigenvalues the smaller one.
    if len(x) <= x.shape[1]:
        _, vectors = torch.linalg.eigh(x @ x.t())
        directions = vectors.flip(1)[:, :count]
    else:
        _, vectors = torch.linalg.eigh(x.t() @ x)
        directions = x @ vectors.flip(1)[:, :count]
        directions = directions / directions.norm(dim=0).clamp(min=1e-12)
    greatest = directions.abs().argmax(dim=0, keepdim=True)
    directions = directions * directions.gather(0, greatest).sign()
    parts = directions.t() @ x
    share = float(parts.square().sum() / x.square().sum().clamp(min=1e-300))
    missing = count - len(parts)
    parts = torch.cat((parts, parts.new_zeros(missing, parts.shape[1])))
    return parts.unflatten(1, features.shape[1:]).to(features.dtype), min(share, 1.0)


def liveliest_channels(features: Tensor, count: int) -> list[int]:
    """The channels of features (C, H, W) that vary most over the image, the first the most.

    Not those with the highest values: a few channels of vision transformers are high everywhere.
    """
    spread = features.flatten(1).std(dim=1, correction=0)
    return spread.argsort(descending=True, stable=True)[:count].tolist()
