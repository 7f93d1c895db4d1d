"""The published half-weight CNNs, evaluated straight from a state dict of the official format.

Written from the published stage equations alone, without the backbones under test: nothing here
is a module, and a weight is looked up by its official name where the equation mentions it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

StateDict = dict[str, Tensor]

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STRIDES = (1, 2, 2, 2)

#: What can be got wrong in the tied stages of each design. The tests that use these show that an
#: equal result means something.
MISTAKES = {
    "resnet": (
        "concat order swapped",
        "first shortcut norm dropped",
        "second shortcut norm dropped",
        "first branch norm dropped",
        "second branch norm dropped",
        "last norm dropped",
        "ReLU for GELU",
        "stride on W",
        "stride on conv1",
        "shortcut from the input alone",
        "another weight after the first block",
    ),
    "resnext": (
        "W and its transpose exchanged",
        "shortcut norm dropped",
        "first branch norm dropped",
        "second branch norm dropped",
        "last norm dropped",
        "stride on W",
        "stride on conv1",
        "shortcut from the adapted input",
        "no ReLU before W",
        "ReLU between W and the 3x3",
    ),
}


def random_state_dict(
    design: str,
    *,
    depth: int,
    base: int = 64,
    groups: int = 1,
    base_width: int = 64,
    num_classes: int | None = None,
    stem: tuple[str, str] = ("stem.0", "stem.1"),
    seed: int = 0,
) -> StateDict:
    """Weights of the official names and shapes in fp64, none of which acts as an identity.

    Args:
        design: "resnet" or "resnext", of stages 3 and 4.
        depth: 50, 101 or 152.
        base: Channels of the stem and a quarter of the first stage's; 64 as published.
        groups: Groups of the 3×3 convolutions.
        base_width: Width of a group in the first stage if ``base`` is 64.
        num_classes: Of the classifier ``fc``; None leaves it out.
        stem: Names of the stem's convolution and norm.
        seed: Of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: StateDict = {}

    def uniform(*shape: int, low: float, high: float) -> Tensor:
        numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * numbers

    def conv(name: str, out: int, fan_in_channels: int, side: int) -> None:
        shape = (out, fan_in_channels, side, side)
        std = (fan_in_channels * side**2) ** -0.5
        weights[name] = torch.randn(shape, generator=generator, dtype=torch.float64) * std

    def norm(name: str, channels: int) -> None:
        weights[f"{name}.weight"] = uniform(channels, low=0.3, high=0.9)
        weights[f"{name}.bias"] = uniform(channels, low=-0.5, high=0.5)
        weights[f"{name}.running_mean"] = uniform(channels, low=-0.5, high=0.5)
        weights[f"{name}.running_var"] = uniform(channels, low=0.5, high=2.0)
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv(f"{stem[0]}.weight", base, 3, 7)
    norm(stem[1], base)
    channels = base
    for stage, blocks in enumerate(DEPTHS[depth], start=1):
        layer = f"layer{stage}"
        mid = base * 2 ** (stage - 1)
        width, out = int(mid * base_width / 64) * groups, 4 * mid
        if stage <= 2:
            for n in range(blocks):
                name = f"{layer}.{n}"
                conv(f"{name}.conv1.weight", width, channels if n == 0 else out, 1)
                norm(f"{name}.bn1", width)
                conv(f"{name}.conv2.weight", width, width // groups, 3)
                norm(f"{name}.bn2", width)
                conv(f"{name}.conv3.weight", out, width, 1)
                norm(f"{name}.bn3", out)
            conv(f"{layer}.0.downsample.0.weight", out, channels, 1)
            norm(f"{layer}.0.downsample.1", out)
        elif design == "resnet":
            conv(f"{layer}.convp", width, out, 1)
            conv(f"{layer}.main_path_upsampler.0.weight", out - channels, 1, 3)
            norm(f"{layer}.main_path_upsampler.1", out - channels)
            conv(f"{layer}.downsample_path.0.weight", out, 1, 3)
            norm(f"{layer}.downsample_path.1", out)
            norm(f"{layer}.downsample_path.2", out)
            for n in range(blocks):
                norm(f"{layer}.processing_blocks.{n}.0", width)
                conv(f"{layer}.processing_blocks.{n}.2.weight", width, width // groups, 3)
                norm(f"{layer}.processing_blocks.{n}.3", width)
                norm(f"{layer}.final_bns.{n}", out)
        else:
            conv(f"{layer}.convp", width, out, 1)
            conv(f"{layer}.channel_adapter.weight", out, channels, 1)
            conv(f"{layer}.downsample.0.weight", out, channels, 1)
            norm(f"{layer}.downsample.1", out)
            for n in range(blocks):
                norm(f"{layer}.bn_pre_list.{n}", out)
                conv(f"{layer}.conv2_list.{n}.weight", width, width // groups, 3)
                norm(f"{layer}.bn2_list.{n}", width)
                norm(f"{layer}.bn_post_list.{n}", out)
        channels = out
    if num_classes is not None:
        conv("fc.weight", num_classes, channels, 1)
        weights["fc.weight"] = weights["fc.weight"].flatten(1)
        weights["fc.bias"] = uniform(num_classes, low=-0.5, high=0.5)
    return weights


def parameters(weights: StateDict) -> StateDict:
    """The weights without BatchNorm's statistics."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value for name, value in weights.items() if not name.endswith(statistics)}


def stage_maps(
    weights: StateDict,
    images: Tensor,
    *,
    training: bool = False,
    mistake: str | None = None,
    tied_weight: Callable[[str, int, str], Tensor] | None = None,
) -> list[Tensor]:
    """Outputs of the four stages.

    Args:
        weights: A state dict of the official format. In training its running statistics are
            updated in place.
        images: (B, 3, H, W).
        training: Normalises by the batch's statistics.
        mistake: One of :data:`MISTAKES`, made on purpose.
        tied_weight: Gives the W that a block of a stage uses as "W" or as "Wᵀ", from the stage's
            name, the block's number and the use. By default it is ``weights``' one ``convp``.
    """
    return _Evaluation(weights, training, mistake, tied_weight).run(images)


class _Evaluation:
    def __init__(
        self,
        weights: StateDict,
        training: bool,
        mistake: str | None,
        tied_weight: Callable[[str, int, str], Tensor] | None,
    ) -> None:
        assert mistake is None or any(mistake in known for known in MISTAKES.values()), mistake
        self.weights = weights
        self.training = training
        self.mistake = mistake
        self.tied_weight = tied_weight or (lambda layer, n, use: weights[f"{layer}.convp"])

    def run(self, images: Tensor) -> list[Tensor]:
        stem = ("stem.0", "stem.1") if "stem.0.weight" in self.weights else ("conv1", "bn1")
        x = F.relu(self.norm(self.conv(images, stem[0], stride=2), stem[1]))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        maps = []
        for stage, stride in enumerate(STRIDES, start=1):
            layer = f"layer{stage}"
            if f"{layer}.0.conv1.weight" in self.weights:
                x = self.dense_stage(x, layer, stride)
            elif f"{layer}.processing_blocks.0.2.weight" in self.weights:
                x = self.half_resnet_stage(x, layer, stride)
            else:
                x = self.half_resnext_stage(x, layer, stride)
            maps.append(x)
        return maps

    def dense_stage(self, x: Tensor, layer: str, stride: int) -> Tensor:
        for n in range(self.count(f"{layer}.{{}}.conv2.weight")):
            block = f"{layer}.{n}"
            s = stride if n == 0 else 1
            on_conv1 = self.mistake == "stride on conv1"
            y = self.conv(x, f"{block}.conv1", stride=s if on_conv1 else 1)
            y = F.relu(self.norm(y, f"{block}.bn1"))
            y = self.conv(y, f"{block}.conv2", stride=1 if on_conv1 else s)
            y = F.relu(self.norm(y, f"{block}.bn2"))
            y = self.norm(self.conv(y, f"{block}.conv3"), f"{block}.bn3")
            if n == 0:
                x = self.conv(x, f"{block}.downsample.0", stride=s)
                x = self.norm(x, f"{block}.downsample.1")
            x = F.relu(y + x)
        return x

    def half_resnet_stage(self, x: Tensor, layer: str, stride: int) -> Tensor:
        """x0 = [GELU(BN(DW x)), x]; x ← ReLU(BN_n(Wᵀ G_n(W x)) + shortcut)."""
        wide = self.conv(x, f"{layer}.main_path_upsampler.0")
        wide = self.norm(wide, f"{layer}.main_path_upsampler.1")
        wide = F.relu(wide) if self.mistake == "ReLU for GELU" else F.gelu(wide)
        swapped = self.mistake == "concat order swapped"
        x0 = torch.cat([x, wide] if swapped else [wide, x], dim=1)
        x = x0
        for n in range(self.count(f"{layer}.final_bns.{{}}.weight")):
            s = stride if n == 0 else 1
            on_w = self.mistake == "stride on W"
            y = self.tied(x, layer, n, "W")[..., :: s if on_w else 1, :: s if on_w else 1]
            y = self.norm(y, f"{layer}.processing_blocks.{n}.0", "first branch norm")
            y = self.conv(F.relu(y), f"{layer}.processing_blocks.{n}.2", stride=1 if on_w else s)
            y = self.norm(y, f"{layer}.processing_blocks.{n}.3", "second branch norm")
            y = self.tied(F.relu(y), layer, n, "Wᵀ")
            y = self.norm(y, f"{layer}.final_bns.{n}", "last norm")
            if n == 0 and stride != 1:
                source = x0
                if self.mistake == "shortcut from the input alone":
                    source = torch.cat([torch.zeros_like(wide), x0[:, wide.shape[1] :]], dim=1)
                x = self.conv(source, f"{layer}.downsample_path.0", stride=stride)
                x = self.norm(x, f"{layer}.downsample_path.1", "first shortcut norm")
                x = self.norm(x, f"{layer}.downsample_path.2", "second shortcut norm")
            x = F.relu(y + x)
        return x

    def half_resnext_stage(self, x: Tensor, layer: str, stride: int) -> Tensor:
        """x ← ReLU(BN(Wᵀ ReLU(BN(Conv3x3(W ReLU(BN x))))) + shortcut), after a plain adapter."""
        raw = x
        if f"{layer}.channel_adapter.weight" in self.weights:
            x = self.conv(x, f"{layer}.channel_adapter")
        for n in range(self.count(f"{layer}.bn_post_list.{{}}.weight")):
            s = stride if n == 0 else 1
            on_w = self.mistake == "stride on W"
            y = self.norm(x, f"{layer}.bn_pre_list.{n}", "first branch norm")
            y = y if self.mistake == "no ReLU before W" else F.relu(y)
            y = self.tied(y, layer, n, "W")[..., :: s if on_w else 1, :: s if on_w else 1]
            y = F.relu(y) if self.mistake == "ReLU between W and the 3x3" else y
            y = self.conv(y, f"{layer}.conv2_list.{n}", stride=1 if on_w else s)
            y = F.relu(self.norm(y, f"{layer}.bn2_list.{n}", "second branch norm"))
            y = self.tied(y, layer, n, "Wᵀ")
            y = self.norm(y, f"{layer}.bn_post_list.{n}", "last norm")
            if n == 0:
                if self.mistake == "shortcut from the adapted input":
                    x = x[:, : raw.shape[1], ::stride, ::stride]
                else:
                    x = raw[..., ::stride, ::stride]
                x = self.conv(x, f"{layer}.downsample.0")
                x = self.norm(x, f"{layer}.downsample.1", "shortcut norm")
            x = F.relu(y + x)
        return x

    def tied(self, x: Tensor, layer: str, n: int, use: str) -> Tensor:
        """W x or Wᵀ x at every pixel."""
        weight = self.tied_weight(layer, n, use)[:, :, 0, 0]
        if self.mistake == "another weight after the first block" and n > 0:
            weight = weight.flip(0)
        if self.mistake == "W and its transpose exchanged":
            weight = weight.T
        return torch.einsum("oc,bchw->bohw" if use == "W" else "co,bchw->bohw", weight, x)

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)

    def norm(self, x: Tensor, name: str, role: str = "") -> Tensor:
        if self.mistake == f"{role} dropped":
            return x
        mean, var, weight, bias = (
            self.weights[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(
            x, mean, var, weight, bias, training=self.training, momentum=0.1, eps=1e-5
        )

    def count(self, pattern: str) -> int:
        n = 0
        while pattern.format(n) in self.weights:
            n += 1
        return n
