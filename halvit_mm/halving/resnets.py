"""Dense ResNet or ResNeXt → HalfResNet or HalfResNeXt, stage by stage.

A half-weight stage has one W where a dense stage of N blocks has 2N 1×1 convolutions; its 3×3
convolutions and norms are each block's own, as in a dense stage. What becomes of what:

- Stem and dense stages are copied.
- W is the mean of the dense 1×1 convolutions (those that widen transposed), 3×3 convolutions and
  norms are copied. ``align=True`` does so after :mod:`.resnet_alignment`. In blocks n ≥ 1 of the
  ``"resnet"`` design that loses nothing but the differences between the 1×1 convolutions.
- The entry of a stage has no dense counterpart in the ``"resnet"`` design. New channels start
  linear, ``u ≈ a x``, with a such that ``W [u, x]`` comes closest to block 0's first convolution. A
  strided shortcut reads one channel where the dense one reads all, so it starts as the best
  estimate of the dense shortcut from this channel, as if channels were uncorrelated. A shortcut
  without stride is ``[u, x]`` itself and has nothing to choose.
- In the ``"resnext"`` design the shortcut is the dense one, exactly. Its blocks have no norm and
  ReLU before the 3×3 convolution; this gets the best linear approximation of them instead. The norm
  and ReLU in front of W start as the identity, as inputs are not negative; in block 0 ``widen``
  makes what W turns into the first convolution's output.
- Dense stages in the ``"caffe"`` style stride in another convolution than half-weight ones do;
  their weights are taken all the same.

Running statistics are those of the dense norms, or estimated from them (:mod:`.resnet_start`);
where W is no longer a block's own they are not what images give, and should be estimated anew.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones import HalfResNet
from ..errors import UserError
from ..layers.bottleneck import DenseStage, TiedResNetStage, TiedResNeXtStage
from .resnet_start import Moments, block_moments, start_stage, stem_moments
from .units import Pairing, Unit


class StageUnit(Unit):
    """A half-weight stage and the dense one; dense stages in front of them run, but stay.

    Args:
        name: What reports call it.
        half: The half-weight stage.
        dense: The dense stage.
        before_half: Copied dense stages of the half-weight backbone that run before this stage.
        before_dense: Those of the dense backbone.
        moments: Of the stage's input in the dense backbone.
    """

    def __init__(
        self,
        name: str,
        half: TiedResNetStage | TiedResNeXtStage,
        dense: DenseStage,
        *,
        before_half: Sequence[nn.Module],
        before_dense: Sequence[nn.Module],
        moments: Moments,
    ) -> None:
        self.name, self.half, self.dense = name, half, dense
        self._before_half, self._before_dense = before_half, before_dense
        self._moments = moments

    def run_half(self, x: Tensor) -> list[Tensor]:
        """The map after each block, (B, out_channels, H, W)."""
        x, shortcut = self.half.enter(_run(self._before_half, x))
        weight, transposed = self.half.weight, self.half.transposed()
        maps = []
        for i, block in enumerate(self.half.blocks):
            x = block(x, weight, transposed, shortcut if i == 0 else x)
            maps.append(x)
        return maps

    def run_dense(self, x: Tensor) -> list[Tensor]:
        """The map after each block, (B, out_channels, H, W)."""
        x = _run(self._before_dense, x)
        maps = []
        for block in self.dense:
            x = block(x)
            maps.append(x)
        return maps

    def start(self, *, align: bool) -> None:
        """See the module's docstring for what starts as what."""
        start_stage(self.half, list(self.dense), self._moments, align=align)


def pair_resnet(half: HalfResNet, dense: HalfResNet, size: tuple[int, int]) -> Pairing:
    """Cuts a half-weight ResNet and a dense one into stages; copies what both have.

    Args:
        half: The half-weight backbone, changed in place.
        dense: The dense backbone, ``tied_stages=()``.
        size: Height and width of the images; maps of any size are paired alike.

    Raises:
        UserError: The two do not have the same stages, blocks, widths, strides or stem.
    """
    _refuse_unlike(half, dense)
    moments = stem_moments(dense)
    units, half_stages, dense_stages = [], [], []
    for name in half.stages:
        stage, original = getattr(half, name), getattr(dense, name)
        if isinstance(stage, DenseStage):
            half_stages.append(stage)
            dense_stages.append(original)
        else:
            units.append(
                StageUnit(
                    f"stage {name.removeprefix('layer')}",
                    stage,
                    original,
                    before_half=half_stages,
                    before_dense=dense_stages,
                    moments=moments,
                )
            )
            half_stages, dense_stages = [], []
        moments = block_moments(original, moments)[-1]
    _copy_common(half, dense)
    return Pairing(
        units=units,
        enter_half=lambda images: _stem(half, images),
        enter_dense=lambda images: _stem(dense, images),
        leave_half=lambda x: _run(half_stages, x).mean(dim=(2, 3)),
        leave_dense=lambda x: _run(dense_stages, x).mean(dim=(2, 3)),
    )


def _stem(model: HalfResNet, images: Tensor) -> Tensor:
    """As in the forward pass of the backbone."""
    x = model.stem(images) if model.deep_stem else model.relu(model.bn1(model.conv1(images)))
    return model.maxpool(x)


def _run(stages: Sequence[nn.Module], x: Tensor) -> Tensor:
    for stage in stages:
        x = stage(x)
    return x


def _copy_common(half: HalfResNet, dense: HalfResNet) -> None:
    tied = tuple(f"{name}." for name in half.stages if not _is_dense(half, name))
    source = dense.state_dict()
    weights = {k: v for k, v in half.state_dict().items() if not k.startswith(tied)}
    for name, target in weights.items():
        if name not in source or source[name].shape != target.shape:
            raise UserError(
                f"the dense ResNet does not have the half-weight one's {name} of shape "
                f"{tuple(target.shape)}: take a dense one of the same stem and widths"
            )
    with torch.no_grad():
        for name, target in weights.items():
            target.copy_(source[name])


def _is_dense(model: HalfResNet, name: str) -> bool:
    return isinstance(getattr(model, name), DenseStage)


def _refuse_unlike(half: HalfResNet, dense: HalfResNet) -> None:
    if all(_is_dense(half, name) for name in half.stages):
        raise UserError("the ResNet to make has no half-weight stage: name some in tied_stages")
    if half.stages != dense.stages or not all(_is_dense(dense, name) for name in dense.stages):
        raise UserError(
            f"a half-weight ResNet of {len(half.stages)} stages is made of a dense one of as many "
            "dense stages: take its dense twin, tied_stages=()"
        )
    for name in half.stages:
        ours, theirs = _build(getattr(half, name)), _build(getattr(dense, name))
        for what, wanted in ours.items():
            if theirs[what] != wanted:
                raise UserError(
                    f"{name} of the half-weight ResNet has {wanted} {what}, of the dense one "
                    f"{theirs[what]}: take a dense one of the same depth and channels"
                )
        stages = (getattr(half, name), getattr(dense, name))
        if not all(
            isinstance(module, _BatchNorm)
            for stage in stages
            for norm, module in stage.named_modules()
            if norm.rpartition(".")[2].startswith("bn")
        ):
            raise UserError(
                f"{name} has norms other than BatchNorm: a ResNet is halved with norm_cfg type "
                "'BN' or 'SyncBN'"
            )


def _build(stage: nn.Module) -> dict[str, object]:
    """What has to be the same in a half-weight stage and the dense one it is made of."""
    if isinstance(stage, DenseStage):
        blocks, first = stage, stage[0]
        stride = first.conv1.stride[0] * first.conv2.stride[0]  # it may be in either
        out_channels, in_channels = first.conv3.out_channels, first.conv1.in_channels
    else:
        blocks, first = stage.blocks, stage.blocks[0]
        stride = first.conv2.stride[0]
        out_channels = stage.weight.shape[1]
        in_channels = _tied_in_channels(stage)
    conv = first.conv2
    return {
        "blocks": len(blocks),
        "input channels": in_channels,
        "output channels": out_channels,
        "inner channels": conv.out_channels,
        "groups": conv.groups,
        "as stride": stride,
        "as dilation": conv.dilation[0],
    }


def _tied_in_channels(stage: TiedResNetStage | TiedResNeXtStage) -> int:
    if stage.widen is None or isinstance(stage.widen, nn.Identity):
        return stage.weight.shape[1]
    return next(m for m in stage.widen.modules() if isinstance(m, nn.Conv2d)).in_channels
