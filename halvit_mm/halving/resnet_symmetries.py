"""What a dense bottleneck leaves free: changes of its weights that leave its output as it is.

A bottleneck computes ``ReLU(BN3(W3 ReLU(BN2(G ReLU(BN1(W1 x))))) + shortcut)``, G a 3×3
convolution. Its two inner spaces, the one that G reads and the one that it writes, have no order of
their own; the scale of what a norm reads has no effect, its sign one that the norm can take back;
and a positive factor passes through ReLU. Each function changes a block of torchvision's in place;
all are exact in evaluation mode, and in training mode where it says so.

With groups, G leads each group of channels to the same group of its output. The inner spaces can
then be reordered each within its groups, and whole groups in both at once.
"""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck


@torch.no_grad()
def permute_read(block: Bottleneck, order: Tensor) -> None:
    """Reorders the channels that the 3×3 convolution reads; exact in training mode, too.

    Args:
        block: The block, changed in place.
        order: Which channel comes where (width,); it keeps the channels of a group in their group.

    Raises:
        ValueError: A channel would leave its group.
    """
    conv = block.conv2
    groups, size = _within_groups(conv, order)
    _reorder_output(block.conv1, block.bn1, order)
    # (group, its outputs, its inputs, 3, 3): each group's inputs get an order of their own.
    weight = conv.weight.unflatten(0, (groups, -1))
    local = (order.view(groups, size) % size)[:, None, :, None, None].expand(weight.shape)
    conv.weight.copy_(weight.gather(2, local).flatten(0, 1))


@torch.no_grad()
def permute_written(block: Bottleneck, order: Tensor) -> None:
    """Reorders the channels that the 3×3 convolution writes; exact in training mode, too.

    Arguments and errors are those of :func:`permute_read`.
    """
    _within_groups(block.conv2, order)
    _reorder_output(block.conv2, block.bn2, order)
    block.conv3.weight.copy_(block.conv3.weight[:, order])


@torch.no_grad()
def permute_groups(block: Bottleneck, order: Tensor) -> None:
    """Reorders the groups of the 3×3 convolution (groups,); exact in training mode, too."""
    channels = torch.arange(block.conv2.out_channels).view(block.conv2.groups, -1)[order].flatten()
    _reorder_output(block.conv1, block.bn1, channels)
    _reorder_output(block.conv2, block.bn2, channels)  # what a group reads moves with it
    block.conv3.weight.copy_(block.conv3.weight[:, channels])


@torch.no_grad()
def scale_first(block: Bottleneck, factors: Tensor) -> None:
    """Multiplies the rows of the first 1×1 convolution by factors (width,), the norm takes it back.

    Factors may be negative, but not 0. In training mode only signs (±1) are exact: another scale
    changes how much the norm's ``eps`` weighs.
    """
    _scale_output(block.conv1, block.bn1, factors)


@torch.no_grad()
def scale_inner(block: Bottleneck, factors: Tensor) -> None:
    """Multiplies the columns of the last 1×1 convolution by positive factors (width,).

    The norm before takes it back on the other side of the ReLU; exact in training mode, too.

    Raises:
        ValueError: A factor is not positive, so that it cannot pass the ReLU.
    """
    if not (factors > 0).all():
        raise ValueError("only positive factors pass a ReLU")
    block.conv3.weight.mul_(factors[:, None, None])
    block.bn2.weight.div_(factors)
    block.bn2.bias.div_(factors)


@torch.no_grad()
def scale_last(block: Bottleneck, factors: Tensor) -> None:
    """Multiplies the rows of the last 1×1 convolution by factors (out_channels,).

    What holds for :func:`scale_first` holds here.
    """
    _scale_output(block.conv3, block.bn3, factors)


def _scale_output(conv: nn.Conv2d, norm: nn.BatchNorm2d, factors: Tensor) -> None:
    before = (norm.running_var + norm.eps).sqrt()
    conv.weight.mul_(factors[:, None, None, None])
    norm.running_mean.mul_(factors)
    norm.running_var.mul_(factors.square())
    # Statistics stay those of what the norm reads; so its scale has to undo the share of eps.
    after = (norm.running_var + norm.eps).sqrt()
    exact = factors.abs() == 1  # where nothing may be rounded
    norm.weight.mul_(torch.where(exact, factors, after / (before * factors)))


def _reorder_output(conv: nn.Conv2d, norm: nn.BatchNorm2d, order: Tensor) -> None:
    for tensor in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.copy_(tensor[order])


def _within_groups(conv: nn.Conv2d, order: Tensor) -> tuple[int, int]:
    groups, size = conv.groups, conv.out_channels // conv.groups
    if not torch.equal(order // size, torch.arange(len(order)) // size):
        raise ValueError(f"the order takes channels out of their groups of {size}")
    return groups, size
