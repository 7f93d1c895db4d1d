"""ResNet and ResNeXt with half-weight stages, and their dense twins.

Source: Koyun and Töreyin, "HaLViT: Half of the Weights are Enough", CVPRW 2024, and its reference
code; the dense parts are He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, and
Xie et al., "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017.
"""

from collections.abc import Sequence
from typing import ClassVar

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError
from ..layers.bottleneck import (
    DenseStage,
    Norm,
    TiedResNetStage,
    TiedResNeXtStage,
    conv3x3,
    inner_width,
)
from ..layers.checks import check_flags, check_maps, check_whole, is_whole
from .options import check_frozen, parse_indices, parse_numbers

#: Blocks in each stage.
STAGE_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGE_DESIGNS = ("resnet", "resnext")


@MODELS.register_module()
class HalfResNet(BaseModule):
    """ResNet in whose half-weight stages one W serves all 1×1 convolutions, as W and as Wᵀ.

    The stem and the dense stages have torchvision's names (``conv1``, ``bn1``, ``layer1.0.conv1``),
    whatever the norms are, so its weights load into them. Stages are numbered from 1, as in
    ``layer1``, except in ``out_indices``, which counts from 0 as mmdet does.

    Args:
        depth: 50, 101 or 152.
        tied_stages: Stages with half of the weights; ``()`` makes the dense twin.
        stage_design: How a half-weight stage is built: ``"resnet"`` (:class:`TiedResNetStage`) or
            ``"resnext"`` (:class:`TiedResNeXtStage`), as published for these two.
        groups: Groups of the 3×3 convolutions.
        base_width: Width of a group in stage 1 if ``base_channels`` is 64.
        in_channels: Channels of the images.
        stem_channels: Channels of the stem's output; ``base_channels`` by default.
        base_channels: A quarter of the first stage's output channels; each stage doubles it.
        num_stages: How many stages there are, from 1 to 4.
        strides: Stride of each stage.
        dilations: Dilation of each stage's 3×3 convolutions.
        out_indices: Stages, counted from 0, whose outputs are returned; negative numbers count
            from the end.
        style: Where the dense stages stride: ``"pytorch"`` in the 3×3 convolution, ``"caffe"`` in
            the first 1×1.
        deep_stem: Replaces the 7×7 convolution by three 3×3 ones.
        cifar_stem: Replaces the stem by one 3×3 convolution of stride 1, for images of 32 pixels.
        avg_down: Lets the 1×1 shortcuts average instead of striding.
        zero_init_residual: Starts each block as its shortcut.
        frozen_stages: 0 freezes the stem, n > 0 the first n stages as well; −1 nothing. Frozen
            parts keep their running statistics.
        norm_cfg: The norms, BN by default; ``dict(type="SyncBN")``, ``dict(type="GN",
            num_groups=32)``, ….
        norm_eval: Keeps all BatchNorms in evaluation mode while training, as detectors that start
            from ImageNet weights do.
        with_cp: Recomputes each block in the backward pass instead of keeping its activations.
        init_cfg: mmengine's initialisation. By default convolutions start as in the reference
            code: by PyTorch's rule and W Xavier-normal in the ``"resnet"`` design, all of them
            Kaiming-normal by fan-out in the ``"resnext"`` design.

    Raises:
        ValueError: An option is unknown or contradicts another; the message says which.
    """

    #: What turns a configuration into its dense twin.
    dense_twin: ClassVar[dict] = dict(tied_stages=())
    #: For :func:`~halvit_mm.layers.fold_batch_norms`.
    norm_follows: ClassVar[dict] = dict(bn1="conv1")

    def __init__(
        self,
        *,
        depth: int = 50,
        tied_stages: Sequence[int] = (3, 4),
        stage_design: str = "resnet",
        groups: int = 1,
        base_width: int = 64,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = "pytorch",
        deep_stem: bool = False,
        cifar_stem: bool = False,
        avg_down: bool = False,
        zero_init_residual: bool = False,
        frozen_stages: int = -1,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_flags(deep_stem=deep_stem, cifar_stem=cifar_stem, avg_down=avg_down)
        check_flags(zero_init_residual=zero_init_residual, norm_eval=norm_eval, with_cp=with_cp)
        channels = base_channels if stem_channels is None else stem_channels
        check_whole(in_channels=in_channels, base_channels=base_channels)
        check_whole(least=2 if deep_stem else 1, stem_channels=channels)
        check_whole(groups=groups, base_width=base_width)
        check_whole(most=4, num_stages=num_stages)
        stages = range(1, num_stages + 1)
        if not is_whole(depth) or depth not in STAGE_DEPTHS:
            raise ValueError(f"depth={depth!r} is unknown: choose one of {tuple(STAGE_DEPTHS)}")
        if stage_design not in STAGE_DESIGNS:
            raise ValueError(f"stage_design={stage_design!r} is unknown: choose {STAGE_DESIGNS}")
        if style not in ("pytorch", "caffe"):
            raise ValueError(f"style={style!r} is unknown: choose 'pytorch' or 'caffe'")
        strides = parse_numbers(strides, "strides", num_stages)
        dilations = parse_numbers(dilations, "dilations", num_stages)
        listed = isinstance(tied_stages, (tuple, list, set, frozenset))
        if not listed or not all(is_whole(stage) and stage in stages for stage in tied_stages):
            raise ValueError(f"tied_stages={tied_stages!r} must name stages of {tuple(stages)}")
        check_frozen(frozen_stages, num_stages, "stages")
        if deep_stem and cifar_stem:
            raise ValueError("deep_stem and cifar_stem exclude each other: set one of them")

        self.out_indices = parse_indices(out_indices, num_stages, "out_indices", of="stages")
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        norm = _norm_factory(dict(type="BN") if norm_cfg is None else norm_cfg)

        self._make_stem(in_channels, channels, norm, deep=deep_stem, cifar=cifar_stem)
        self.stages = [f"layer{stage}" for stage in stages]
        for stage, name in zip(stages, self.stages, strict=True):
            planes = base_channels * 2 ** (stage - 1)
            out_channels = 4 * planes
            options = dict(
                depth=STAGE_DEPTHS[depth][stage - 1],
                stride=strides[stage - 1],
                dilation=dilations[stage - 1],
                groups=groups,
                norm=norm,
                with_cp=with_cp,
            )
            if stage not in tied_stages:
                layer = DenseStage(
                    channels,
                    planes,
                    base_width=base_width,
                    style=style,
                    avg_down=avg_down,
                    **options,
                )
            else:
                options["width"] = inner_width(planes, base_width, groups)
                if stage_design == "resnet":
                    layer = TiedResNetStage(channels, out_channels, **options)
                else:
                    layer = TiedResNeXtStage(channels, out_channels, avg_down=avg_down, **options)
            self.add_module(name, layer)
            channels = out_channels
        self.feat_dim = channels

        if stage_design == "resnext":
            self._init_convolutions()
        if zero_init_residual:
            for name, module in self.named_modules():
                if name.endswith(".bn3"):
                    nn.init.zeros_(module.weight)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs the backbone.

        Args:
            x: Images (B, in_channels, height, width).

        Returns:
            For each of ``out_indices``, i, the output (B, 4 · base_channels · 2ⁱ, H, W) of its
            stage, from fine to coarse. With the default strides H and W are the input's sides
            divided by 4 · 2ⁱ (with ``cifar_stem`` by 2ⁱ), rounded up.

        Raises:
            TypeError: The images are no tensor, or of another type than the weights.
            ValueError: They have other dimensions or channels, or no pixel. In training, also where
                a BatchNorm gets a single value for each channel, which has no variance: one image
                of which a stage leaves one pixel. Larger images, two of them, ``norm_eval`` or
                another norm will do.
        """
        first = self.stem[0] if self.deep_stem else self.conv1
        check_maps(x, first.in_channels, first.weight, what="images")
        x = self.stem(x) if self.deep_stem else self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x)
        outs = []
        for i, name in enumerate(self.stages[: self.out_indices[-1] + 1]):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> "HalfResNet":
        """Frozen parts stay in evaluation mode, and with ``norm_eval`` all BatchNorms do."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Refuses the weights of a folded model: without its norms they would mean nothing here,
        and mmengine, which leaves out what is missing, would load them without a word."""
        name, conv = ("stem.0", self.stem[0]) if self.deep_stem else ("conv1", self.conv1)
        if conv.bias is None and f"{prefix}{name}.bias" in state_dict:
            raise UserError(
                "the checkpoint is of a model whose BatchNorms were folded for inference: load the "
                "checkpoint from before, or fold this model first"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_stem(
        self, in_channels: int, channels: int, norm: Norm, *, deep: bool, cifar: bool
    ) -> None:
        self.deep_stem = deep
        if deep:
            self.stem = nn.Sequential(
                *(
                    conv3x3(in_channels, channels // 2, stride=2),
                    norm(channels // 2),
                    nn.ReLU(inplace=True),
                ),
                *(
                    conv3x3(channels // 2, channels // 2),
                    norm(channels // 2),
                    nn.ReLU(inplace=True),
                ),
                *(conv3x3(channels // 2, channels), norm(channels), nn.ReLU(inplace=True)),
            )
        elif cifar:
            self.conv1 = conv3x3(in_channels, channels)
        else:
            self.conv1 = nn.Conv2d(
                in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False
            )
        if not deep:
            self.bn1 = norm(channels)
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def _init_convolutions(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        stem = [self.stem] if self.deep_stem else [self.conv1, self.bn1]
        return [*stem, *(getattr(self, name) for name in self.stages[: self.frozen_stages])]

    def _freeze(self) -> None:
        # What no output needs gets no gradient, for which DDP would wait.
        unused = (getattr(self, name) for name in self.stages[self.out_indices[-1] + 1 :])
        for module in (*unused, *self._frozen_modules()):
            module.requires_grad_(False)


@MODELS.register_module()
class HalfResNeXt(HalfResNet):
    """ResNeXt with half-weight stages; 101, 32 groups of 8 and its stage design are published.

    With these W is square, so that shapes do not tell W from Wᵀ. All other arguments are those of
    :class:`HalfResNet`.
    """

    def __init__(
        self,
        *,
        depth: int = 101,
        groups: int = 32,
        base_width: int = 8,
        stage_design: str = "resnext",
        **options,
    ) -> None:
        super().__init__(
            depth=depth, groups=groups, base_width=base_width, stage_design=stage_design, **options
        )


def _norm_factory(norm_cfg: dict) -> Norm:
    from mmcv.cnn import build_norm_layer  # here, as importing mmcv takes seconds

    def norm(channels: int) -> nn.Module:
        try:
            layer = build_norm_layer(norm_cfg, channels)[1]
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"norm_cfg={norm_cfg!r} makes no norm of {channels} channels "
                f"({type(error).__name__}: {error}): choose dict(type='BN') or another of mmcv's"
            ) from error
        if type(layer) is nn.LayerNorm:
            raise ValueError("norm_cfg: LN normalises rows of maps, not channels: choose BN or GN")
        return layer

    return norm
