"""How a half-weight ResNet stage starts from a dense one; see :mod:`.resnets` for what and why.

Means and variances of maps are not in the weights, except those that norms read. The others are
estimated from the norms, as if maps were normal before a ReLU and channels independent.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from ..backbones import HalfResNet
from ..layers.bottleneck import TiedResNetStage, TiedResNeXtStage
from .resnet_alignment import aligned, average

#: Mean and variance (channels,) of each channel of a map.
Moments = tuple[Tensor, Tensor]


@torch.no_grad()
def start_stage(
    half: TiedResNetStage | TiedResNeXtStage,
    dense: Sequence[Bottleneck],
    moments: Moments,
    *,
    align: bool,
) -> None:
    """Gives a half-weight stage the averages of a dense one, in place.

    Args:
        half: The half-weight stage.
        dense: The blocks of the dense stage; they stay as they are.
        moments: Of the dense stage's input.
        align: Brings the blocks close to each other first (:mod:`.resnet_alignment`).
    """
    resnext = isinstance(half, TiedResNeXtStage)
    # In the resnext design a convolution of its own stands between the input and W.
    first_reads_w = not resnext or isinstance(half.widen, nn.Identity)
    blocks = [copy.deepcopy(block).double() for block in dense]
    if align:
        blocks = aligned(blocks, first_reads_w=first_reads_w)
    weight = average(blocks)
    half.weight.copy_(weight[..., None, None])
    for target, block in zip(half.blocks, blocks, strict=True):
        target.conv2.load_state_dict(block.conv2.state_dict())
        target.bn2.load_state_dict(block.bn2.state_dict())
        target.bn3.load_state_dict(block.bn3.state_dict())
        if not resnext:
            target.bn1.load_state_dict(block.bn1.state_dict())
    moments = moments[0].double(), moments[1].double()
    if resnext:
        _start_resnext(half, blocks, weight, moments)
    else:
        _start_resnet_entry(half, blocks[0], weight, moments)


def stem_moments(dense: HalfResNet) -> Moments:
    """Of the stem's output, but for the pooling."""
    norm = dense.stem[-2] if dense.deep_stem else dense.bn1
    return _rectify(norm.bias.detach(), norm.weight.detach().square())[:2]


def block_moments(blocks: Sequence[Bottleneck], moments: Moments) -> list[Moments]:
    """Of what each block returns, if ``moments`` are those of the first one's input."""
    returned = []
    for block in blocks:
        if block.downsample is not None:
            norm = block.downsample[-1]
            moments = norm.bias.detach(), norm.weight.detach().square()
        mean = moments[0] + block.bn3.bias.detach()
        variance = moments[1] + block.bn3.weight.detach().square()
        moments = _rectify(mean, variance)[:2]
        returned.append(moments)
    return returned


def _start_resnet_entry(
    half: TiedResNetStage, first: Bottleneck, weight: Tensor, moments: Moments
) -> None:
    mean, variance = moments
    deviation = variance.sqrt()
    source = torch.arange(len(mean))  # of each channel of [u, x]: the channel of x that it reads
    signs = torch.ones_like(mean)
    if half.widen is not None:
        conv, norm, _ = half.widen
        new = source.repeat_interleave(conv.out_channels // conv.in_channels)
        # For each channel of x: a of least squares, first[:, x] − W[:, x] = Σ W[:, u] a.
        columns = weight[:, : len(new)].t().unflatten(0, (len(mean), -1))
        missing = first.conv1.weight.flatten(1) - weight[:, len(new) :]
        slopes = torch.linalg.lstsq(columns.transpose(1, 2), missing.t()[..., None]).solution
        slopes = slopes.flatten()
        _one_tap(conv)
        # GELU(z) ≈ z / 2 around 0, where the norm puts its output.
        _set_norm(norm, mean[new], variance[new], slope=2 * slopes)
        source, signs = torch.cat((new, source)), torch.cat((_signs(slopes), signs))
    if isinstance(half.shortcut, nn.Identity):
        return
    conv, inner, outer = half.shortcut
    projection, norm = first.downsample[-2], first.downsample[-1]
    _one_tap(conv, averages=len(first.downsample) == 3)
    channels = torch.arange(conv.out_channels)
    zero = torch.zeros_like(norm.weight)
    seen = projection.weight.flatten(1)[channels, source] * deviation[source] * signs
    share = seen / (norm.running_var + norm.eps).sqrt()  # correlation with the dense shortcut
    if half.widen is None:
        read_mean, read_variance = mean, variance
    else:
        u = slice(0, len(channels) - len(mean))
        read_mean, read_variance = mean[source], variance[source]
        read_mean[u], read_variance[u] = 0, (slopes * deviation[new]).square()
    _set_norm(inner, read_mean, read_variance, slope=(read_variance + inner.eps).rsqrt())
    slope = norm.weight * share.clamp(-1, 1)
    _set_norm(outer, zero, zero + 1, slope=slope, offset=norm.bias)


def _start_resnext(
    half: TiedResNeXtStage, blocks: Sequence[Bottleneck], weight: Tensor, moments: Moments
) -> None:
    if not isinstance(half.shortcut, nn.Identity):
        half.shortcut.load_state_dict(blocks[0].downsample.state_dict())
    for i, (target, block) in enumerate(zip(half.blocks, blocks, strict=True)):
        mean, variance = moments
        offset = torch.zeros_like(block.bn1.bias)  # of W's output from the dense convolution's
        if i == 0 and not isinstance(half.widen, nn.Identity):
            inverse = torch.linalg.pinv(weight)
            half.widen.weight.copy_((inverse @ block.conv1.weight.flatten(1))[..., None, None])
            mean = inverse @ block.bn1.running_mean
            variance = inverse.square() @ block.bn1.running_var
            # Inputs have either sign here, so they are lifted: W sees 98 of 100 unchanged.
            lift = 2 * variance.sqrt()
            _set_norm(target.bn0, mean, variance, slope=1, offset=lift)
            offset = weight @ (lift - mean)
        else:
            _set_norm(target.bn0, mean, variance, slope=1, offset=mean)
        # ReLU(BN(z)) ≈ slope z + shift, by least squares for a normal z.
        norm = block.bn1
        rectified, _, active = _rectify(norm.bias, norm.weight.square())
        slope = active * norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = rectified - slope * (norm.running_mean + offset)
        target.conv2.weight.copy_(block.conv2.weight * _per_input(slope, block.conv2))
        # Away from the border the 3×3 convolution makes a constant of the shift.
        constant = (block.conv2.weight * _per_input(shift, block.conv2)).sum(dim=(1, 2, 3))
        target.bn2.running_mean.copy_(block.bn2.running_mean - constant)
        moments = block_moments([block], moments)[-1]


def _per_input(values: Tensor, conv: nn.Conv2d) -> Tensor:
    """Values of a convolution's inputs (in_channels,), laid out to multiply its weight."""
    grouped = values.view(conv.groups, -1).repeat_interleave(conv.out_channels // conv.groups, 0)
    return grouped[..., None, None]


def _one_tap(conv: nn.Conv2d, *, averages: bool = False) -> None:
    """Lets a depthwise 3×3 convolution pass its input on, or average as a pooling of stride 2."""
    conv.weight.zero_()
    if averages and conv.stride[0] == 2:
        conv.weight[..., 1:, 1:] = 0.25
    else:
        conv.weight[..., 1, 1] = 1


def _rectify(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance, and probability to be positive, of the ReLU of normal variables."""
    deviation = variance.sqrt().clamp_min(1e-12)
    ratio = mean / deviation
    active = torch.special.ndtr(ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    rectified = mean * active + deviation * density
    square = (mean.square() + deviation.square()) * active + mean * deviation * density
    return rectified, (square - rectified.square()).clamp_min(1e-12), active


def _set_norm(
    norm: nn.BatchNorm2d,
    mean: Tensor,
    variance: Tensor,
    *,
    slope: Tensor | float,
    offset: Tensor | float = 0,
) -> None:
    """Lets a norm compute ``slope · (x − mean) + offset`` in evaluation mode."""
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(slope * (variance + norm.eps).sqrt())
    norm.bias.copy_(offset * torch.ones_like(mean))


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values)
