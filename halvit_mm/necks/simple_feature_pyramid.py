"""A feature pyramid from the one map of a plain backbone."""

import math
from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import LayerNorm2d
from ..layers.checks import check_flags, check_maps, check_whole


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Maps of several strides, each computed from the backbone's last map alone.

    Finer maps come from transposed convolutions, coarser ones from max pooling; each then passes a
    1×1 and a 3×3 convolution with layer normalisation. Source: Li et al., "Exploring Plain Vision
    Transformer Backbones for Object Detection", ECCV 2022, section 3.

    Args:
        in_channels: Channels of the backbone's map.
        out_channels: Channels of every output.
        patch_stride: Stride of the backbone's map in pixels (its patch size).
        strides: Strides in pixels of the maps computed from it; powers of two apart from
            ``patch_stride``.
        num_outs: Number of outputs; those beyond ``strides`` halve the coarsest map once more each.
        extra_convs: Extra outputs come from 3×3 convolutions of stride 2 (as in RetinaNet) instead
            of subsampling (as in Mask R-CNN).
        init_cfg: mmengine's initialisation.

    Raises:
        ValueError: ``strides`` or ``num_outs`` do not fit.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int = 256,
        patch_stride: int = 16,
        strides: Sequence[int] = (4, 8, 16, 32),
        num_outs: int = 5,
        extra_convs: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_whole(in_channels=in_channels, out_channels=out_channels)
        check_whole(patch_stride=patch_stride)
        check_flags(extra_convs=extra_convs)
        if not isinstance(strides, (tuple, list)) or not strides:
            raise ValueError(f"strides={strides!r} must be a list of one stride or more")
        for stride in strides:
            check_whole(strides=stride)
        check_whole(num_outs=num_outs)
        if num_outs < len(strides):
            raise ValueError(f"num_outs={num_outs} is less than the {len(strides)} strides")
        self.in_channels = in_channels
        self.levels = nn.ModuleList(
            nn.Sequential(*_rescale(in_channels, patch_stride, stride, out_channels))
            for stride in strides
        )
        self.extra_convs = nn.ModuleList(
            nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
            for _ in range(num_outs - len(strides) if extra_convs else 0)
        )
        self.num_subsampled = 0 if extra_convs else num_outs - len(strides)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The backbone's maps, of which the last (B, in_channels, H, W) is used, → the pyramid.

        Returns:
            ``num_outs`` maps (B, out_channels, ·, ·), finest first if ``strides`` are.

        Raises:
            TypeError: There is no such tuple of tensors, or they are of another type than the
                weights.
            ValueError: The map has other dimensions or channels, or no pixel.
        """
        if not isinstance(inputs, (tuple, list)) or not inputs:
            raise TypeError(f"the pyramid takes a tuple of maps, not {type(inputs).__name__}")
        check_maps(inputs[-1], self.in_channels, self.levels[0][-4].weight)
        outs = [level(inputs[-1]) for level in self.levels]
        if outs[0].device.type == "cpu":
            # The norms leave channels last in memory. RoIAlign and 1×1 convolutions on one thread
            # would each make a copy of their own, and gradients in two layouts be added up.
            outs = [out.contiguous() for out in outs]
        for i, conv in enumerate(self.extra_convs):
            outs.append(conv(F.relu(outs[-1]) if i else outs[-1]))
        for _ in range(self.num_subsampled):
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)


def _rescale(dim: int, source: int, target: int, out_channels: int) -> list[nn.Module]:
    """Layers from a map of stride ``source`` and ``dim`` channels to one of stride ``target``."""
    octaves = math.log2(source / target)
    if not octaves.is_integer():
        raise ValueError(f"stride {target} is not a power of two apart from patch_stride={source}")
    if dim < 2**octaves:
        raise ValueError(
            f"in_channels={dim} are too few for stride {target}: each doubling of a map's sides "
            "halves its channels"
        )
    layers: list[nn.Module] = []
    for i in range(int(octaves)):
        if i:
            layers += [LayerNorm2d(dim), nn.GELU()]
        layers.append(nn.ConvTranspose2d(dim, dim // 2, kernel_size=2, stride=2))
        dim //= 2
    if octaves < 0:
        factor = target // source
        layers.append(nn.MaxPool2d(kernel_size=factor, stride=factor, ceil_mode=True))
    return [
        *layers,
        nn.Conv2d(dim, out_channels, kernel_size=1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    ]
