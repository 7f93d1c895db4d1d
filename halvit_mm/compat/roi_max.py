"""RoIAlign with maxima in place of means, which torchvision has no kernel for. Plain PyTorch."""

import torch
from torch import Tensor

# The coordinates of the winning sample of a bin without samples: outside of every feature map.
_NOWHERE = -2.0


def roi_max(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """RoIAlign with maxima: the pooled features and the y and x of each winning sample.

    All three are (K, C, *size). A bin without samples (a box without area) pools to 0.
    """
    height, width = features.shape[2:]
    pooled = features.new_zeros(len(rois), features.shape[1], *size)
    best_y, best_x = torch.full_like(pooled, _NOWHERE), torch.full_like(pooled, _NOWHERE)
    bins = rois.new_tensor([size[1], size[0]])  # x before y, as in the boxes
    boxes = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    start, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        extent = extent.clamp(min=1.0)
    samples = (extent / bins).ceil() if sampling_ratio <= 0 else bins.new_full((), sampling_ratio)
    images = rois[:, 0].long().tolist()
    grids = samples.expand_as(extent).long().tolist()
    steps = extent / bins / samples
    for k, (image, (grid_x, grid_y)) in enumerate(zip(images, grids, strict=True)):
        if grid_x <= 0 or grid_y <= 0:
            continue
        x = start[k, 0] + steps[k, 0] * (torch.arange(size[1] * grid_x).to(rois) + 0.5)
        y = start[k, 1] + steps[k, 1] * (torch.arange(size[0] * grid_y).to(rois) + 0.5)
        corner, weight = _corners(y[:, None], x, height, width)
        values = (features[image].flatten(1)[:, corner] * weight).sum(-1)  # (C, len(y), len(x))
        values = values.unflatten(2, (size[1], grid_x)).unflatten(1, (size[0], grid_y))
        pooled[k], best = values.transpose(2, 3).flatten(3).max(-1)  # over a bin's samples
        row = torch.arange(size[0]).to(best)[:, None] * grid_y + best // grid_x
        column = torch.arange(size[1]).to(best) * grid_x + best % grid_x
        best_y[k], best_x[k] = y[row], x[column]
    return pooled, best_y, best_x


def roi_max_backward(
    grad: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, shape: torch.Size
) -> Tensor:
    """The gradient (``shape``) of :func:`roi_max`: each bin's goes to its winning sample."""
    _, channels, height, width = shape
    corner, weight = _corners(argmax_y.to(grad), argmax_x.to(grad), height, width)
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)  # (K, C)
    corner = corner + plane[:, :, None, None, None] * (height * width)
    result = grad.new_zeros(shape.numel())
    result.index_add_(0, corner.flatten(), (grad[..., None] * weight).flatten())
    return result.view(shape)


def _corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each point, as indices into a flat map, and their weights.

    ``y`` and ``x`` broadcast to (…); both results are (…, 4). Points up to one pixel outside
    of the map are moved onto it, those further away weigh nothing.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.long(), x.long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    dy, dx = y - top, x - left
    corner = [top * width + left, top * width + right, bottom * width + left]
    corner.append(bottom * width + right)
    weight = [(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx]
    return torch.stack(corner, -1), torch.stack(weight, -1) * inside[..., None]
