"""Stages of ResNet bottlenecks: dense ones, and half-weight ones in which one W serves all blocks.

A bottleneck narrows its input by a 1×1 convolution, works on it by a 3×3 convolution and widens it
again by a 1×1 convolution. In a half-weight stage the narrowing is W and the widening is Wᵀ, with
one W for all blocks of the stage; only the 3×3 convolutions and the norms are each block's own.
The input is brought to the stage's output width first, so that W fits the first block too.

Source: Koyun and Töreyin, "HaLViT: Half of the Weights are Enough", CVPRW 2024, and its reference
code, which builds stages differently for ResNet and for ResNeXt. Both designs are here.

Maps are (B, C, H, W); stages take ``in_channels`` and return ``out_channels``, with the sides
divided by ``stride``, rounded up.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from .checkpointing import checkpointed
from .checks import check_flags, check_maps, check_whole

#: Makes the norm of so many channels.
Norm = Callable[[int], nn.Module]


class DenseStage(nn.Sequential):
    """An ordinary stage of ResNet or ResNeXt, with torchvision's blocks and names.

    Args:
        in_channels: Channels of the input.
        planes: A quarter of the output's channels.
        depth: Number of blocks.
        stride: Stride of the first block.
        dilation: Dilation of all 3×3 convolutions.
        groups: Groups of the 3×3 convolutions.
        base_width: Width of a group at 64 planes.
        norm: Makes the norms.
        style: Where the stride is: ``"pytorch"`` in the 3×3, ``"caffe"`` in the first 1×1.
        avg_down: Lets the shortcut average before its 1×1 convolution instead of striding.
        with_cp: Recomputes each block in the backward pass.

    Raises:
        ValueError: An option is wrong.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        depth: int,
        stride: int,
        dilation: int,
        groups: int,
        base_width: int,
        norm: Norm,
        style: str = "pytorch",
        avg_down: bool = False,
        with_cp: bool = False,
    ) -> None:
        _check(in_channels, depth, stride, dilation, groups, with_cp)
        check_whole(planes=planes, base_width=base_width)
        check_flags(avg_down=avg_down)
        if style not in ("pytorch", "caffe"):
            raise ValueError(f"style={style!r} is unknown: choose 'pytorch' or 'caffe'")
        inner_width(planes, base_width, groups)
        out_channels = planes * Bottleneck.expansion
        blocks = []
        for i in range(depth):
            first = i == 0
            changes = first and (stride != 1 or in_channels != out_channels)
            block = Bottleneck(
                in_channels if first else out_channels,
                planes,
                stride=stride if first else 1,
                downsample=(
                    projection(in_channels, out_channels, stride, norm, avg_down=avg_down)
                    if changes
                    else None
                ),
                groups=groups,
                base_width=base_width,
                dilation=dilation,
                norm_layer=norm,
            )
            if style == "caffe":  # torchvision's blocks have it in the 3×3 convolution
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
            blocks.append(block)
        super().__init__(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H / stride, W / stride), sides rounded up.

        Raises:
            ValueError: The map has other channels.
            TypeError: It is of another type than the weights.
        """
        conv = self[0].conv1
        check_maps(x, conv.in_channels, conv.weight)
        for block in self:
            x = _run(self.with_cp, block, x)
        return x


class _TiedStage(nn.Module):
    """What the two designs share: the one W, the blocks, and the loop over them.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        width: Channels between W and Wᵀ.
        depth: Number of blocks.
        stride: Stride of the first block.
        dilation: Dilation of all 3×3 convolutions.
        groups: Groups of the 3×3 convolutions.
        norm: Makes the norms.
        with_cp: Recomputes each block in the backward pass.

    Attributes:
        weight: W (width, out_channels, 1, 1), the only owner; Wᵀ is computed from it.
        widen: Brings the input to ``out_channels``.
        shortcut: Brings what bypasses the first block to its output's shape.
        blocks: The blocks; they are called with W and Wᵀ.

    Raises:
        ValueError: An option is wrong.
    """

    block: type[nn.Module]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        depth: int,
        stride: int,
        dilation: int,
        groups: int,
        norm: Norm,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        _check(in_channels, depth, stride, dilation, groups, with_cp)
        check_whole(out_channels=out_channels, width=width)
        self.in_channels = in_channels
        self.with_cp = with_cp
        self.weight = nn.Parameter(torch.empty(width, out_channels, 1, 1))
        self.blocks = nn.ModuleList(
            self.block(
                width,
                out_channels,
                stride=stride if i == 0 else 1,
                dilation=dilation,
                groups=groups,
                norm=norm,
            )
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H / stride, W / stride), sides rounded up.

        Raises:
            ValueError: The map has other channels.
            TypeError: It is of another type than the weights.
        """
        check_maps(x, self.in_channels, self.weight)
        x, shortcut = self.enter(x)
        transposed = self.transposed()
        for i, block in enumerate(self.blocks):
            x = _run(self.with_cp, block, x, self.weight, transposed, shortcut if i == 0 else x)
        return x

    def transposed(self) -> Tensor:
        """Wᵀ (out_channels, width, 1, 1), laid out once for all blocks.

        Each convolution would copy a transposed view, and the gradient of each use be transposed
        before it is added.
        """
        return self.weight.flatten(1).t().contiguous()[..., None, None]

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stage's input → the first block's input, and what bypasses the first block."""
        raise NotImplementedError


class TiedBottleneck(nn.Module):
    """``ReLU(BN(Wᵀ G(W x)) + shortcut)``, G = BN, ReLU, 3×3 convolution, BN, ReLU."""

    norm_follows: ClassVar[dict] = dict(bn1="shared", bn2="conv2", bn3="shared")

    def __init__(
        self, width: int, out_channels: int, *, stride: int, dilation: int, groups: int, norm: Norm
    ) -> None:
        super().__init__()
        # Names as in the dense bottleneck, whose conv1 and conv3 are W and Wᵀ here.
        self.bn1 = norm(width)
        self.conv2 = conv3x3(width, width, stride=stride, dilation=dilation, groups=groups)
        self.bn2 = norm(width)
        self.bn3 = norm(out_channels)

    def forward(self, x: Tensor, weight: Tensor, transposed: Tensor, shortcut: Tensor) -> Tensor:
        """(B, out_channels, H, W) → (B, out_channels, H / stride, W / stride).

        Args:
            x: The block's input.
            weight: W (width, out_channels, 1, 1).
            transposed: Wᵀ (out_channels, width, 1, 1).
            shortcut: What bypasses the block, of the output's shape.
        """
        # In place, as in torchvision's blocks: no norm needs its output in the backward pass.
        h = F.relu(self.bn1(F.conv2d(x, weight)), inplace=True)
        h = F.relu(self.bn2(self.conv2(h)), inplace=True)
        h = self.bn3(F.conv2d(h, transposed))
        h += shortcut
        return F.relu(h, inplace=True)


class TiedResNetStage(_TiedStage):
    """Half-weight stage as published for ResNet-50 (arguments: see the base class).

    The input x gets new channels ``u = GELU(BN(DWConv3×3(x)))`` at its own resolution, in front of
    its old ones: ``x0 = [u, x]``. The shortcut is x0, or ``BN(BN(DWConv3×3(x0)))`` if strided.

    Raises:
        ValueError: The new channels are no multiple of the old ones.
    """

    block = TiedBottleneck

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, norm: Norm, **options
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, norm=norm, **options)
        new_channels = out_channels - in_channels
        if new_channels < 0 or new_channels % in_channels:
            raise ValueError(
                f"out_channels={out_channels} is no multiple of in_channels={in_channels}, which "
                "a half-weight stage of the 'resnet' design needs: take stage_design='resnext'"
            )
        self.widen = (
            nn.Sequential(
                conv3x3(in_channels, new_channels, groups=in_channels),
                norm(new_channels),
                nn.GELU(),
            )
            if new_channels
            else None
        )
        self.shortcut = (
            nn.Sequential(
                conv3x3(out_channels, out_channels, stride=stride, groups=out_channels),
                norm(out_channels),
                norm(out_channels),  # two in a row, as in the reference code
            )
            if stride != 1
            else nn.Identity()
        )
        nn.init.xavier_normal_(self.weight)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.widen is not None:
            x = torch.cat((self.widen(x), x), dim=1)
        return x, self.shortcut(x)


class TiedPreNormBottleneck(nn.Module):
    """``ReLU(BN(Wᵀ G(W ReLU(BN(x)))) + shortcut)``, G = 3×3 convolution, BN, ReLU."""

    norm_follows: ClassVar[dict] = dict(bn0="input", bn2="conv2", bn3="shared")

    def __init__(
        self, width: int, out_channels: int, *, stride: int, dilation: int, groups: int, norm: Norm
    ) -> None:
        super().__init__()
        self.bn0 = norm(out_channels)
        self.conv2 = conv3x3(width, width, stride=stride, dilation=dilation, groups=groups)
        self.bn2 = norm(width)
        self.bn3 = norm(out_channels)

    def forward(self, x: Tensor, weight: Tensor, transposed: Tensor, shortcut: Tensor) -> Tensor:
        """(B, out_channels, H, W) → (B, out_channels, H / stride, W / stride).

        Args:
            x: The block's input.
            weight: W (width, out_channels, 1, 1).
            transposed: Wᵀ (out_channels, width, 1, 1).
            shortcut: What bypasses the block, of the output's shape.
        """
        # In place, as in torchvision's blocks: no norm needs its output in the backward pass.
        h = self.conv2(F.conv2d(F.relu(self.bn0(x), inplace=True), weight))
        h = F.conv2d(F.relu(self.bn2(h), inplace=True), transposed)
        h = self.bn3(h)
        h += shortcut
        return F.relu(h, inplace=True)


class TiedResNeXtStage(_TiedStage):
    """Half-weight stage as published for ResNeXt-101 (arguments: see the base class).

    A plain 1×1 convolution widens the input; the shortcut is a 1×1 convolution and a norm on the
    input itself. Where no width or resolution changes, either is left out.

    Args:
        avg_down: Lets the shortcut average before its 1×1 convolution instead of striding.
    """

    block = TiedPreNormBottleneck

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        norm: Norm,
        avg_down: bool = False,
        **options,
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, norm=norm, **options)
        widens = in_channels != out_channels
        self.widen = (
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
            if widens
            else nn.Identity()
        )
        self.shortcut = (
            projection(in_channels, out_channels, stride, norm, avg_down=avg_down)
            if widens or stride != 1
            else nn.Identity()
        )
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.widen(x), self.shortcut(x)


def projection(
    in_channels: int, out_channels: int, stride: int, norm: Norm, *, avg_down: bool = False
) -> nn.Sequential:
    """A shortcut of 1×1 convolution and norm.

    With ``avg_down`` it averages over the stride first (ResNet-D, He et al., "Bag of Tricks for
    Image Classification with Convolutional Neural Networks", CVPR 2019).
    """
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    conv_stride = 1 if avg_down else stride
    return nn.Sequential(
        *([pool] if avg_down else []),
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=conv_stride, bias=False),
        norm(out_channels),
    )


def inner_width(planes: int, base_width: int, groups: int) -> int:
    """Channels between a bottleneck's 1×1 convolutions, of all groups.

    Raises:
        ValueError: There would be none.
    """
    width = int(planes * base_width / 64) * groups
    if not width:
        raise ValueError(f"base_width={base_width} leaves none of {planes} channels: enlarge it")
    return width


def conv3x3(
    in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """3×3 convolution without bias that keeps the map's sides, apart from the stride."""
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        groups=groups,
        bias=False,
    )


def _check(
    in_channels: int, depth: int, stride: int, dilation: int, groups: int, with_cp: bool
) -> None:
    check_whole(
        in_channels=in_channels, depth=depth, stride=stride, dilation=dilation, groups=groups
    )
    check_flags(with_cp=with_cp)


def _run(with_cp: bool, module: nn.Module, *inputs: Tensor) -> Tensor:
    if with_cp and torch.is_grad_enabled():
        return checkpointed(module, *inputs)
    return module(*inputs)
