"""The half-weight CNNs against the published equations, from official-format weights, in fp64."""

import functools

import pytest
import torch
from official_half_cnn import MISTAKES, parameters, random_state_dict, stage_maps
from torch import Tensor

from halvit_mm.backbones import HalfResNet, HalfResNeXt
from halvit_mm.checkpoints import convert

PUBLISHED = {
    "resnet": (
        lambda: HalfResNet(depth=50),
        lambda: random_state_dict("resnet", depth=50),
    ),
    "resnext": (
        lambda: HalfResNeXt(depth=101, groups=32, base_width=8),
        lambda: random_state_dict("resnext", depth=101, groups=32, base_width=8, num_classes=1000),
    ),
}
# A quarter of the width. W is square in the "resnext" design here too, as in the published model.
NARROW = dict(stem_channels=16, base_channels=16)
SMALL = {
    "resnet": (
        lambda: HalfResNet(depth=50, **NARROW),
        lambda: random_state_dict("resnet", depth=50, base=16),
    ),
    "resnext": (
        lambda: HalfResNeXt(depth=50, groups=16, base_width=16, **NARROW),
        lambda: random_state_dict("resnext", depth=50, base=16, groups=16, base_width=16),
    ),
}
# Each design in the other family.
CROSSED = {
    "resnet": (
        lambda: HalfResNeXt(depth=50, groups=8, base_width=8, stage_design="resnet", **NARROW),
        lambda: random_state_dict("resnet", depth=50, base=16, groups=8, base_width=8),
    ),
    "resnext": (
        lambda: HalfResNet(depth=50, stage_design="resnext", **NARROW),
        lambda: random_state_dict("resnext", depth=50, base=16),
    ),
}
DESIGNS = pytest.mark.parametrize("design", ["resnet", "resnext"])


def load(backbone: HalfResNet, official: dict[str, Tensor]) -> HalfResNet:
    """The backbone in fp64 and evaluation mode with official weights, loaded strictly."""
    backbone = backbone.double().eval()
    backbone.load_state_dict(ours(official))
    return backbone


def ours(official: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = convert(official).items()
    return {k.removeprefix("backbone."): v for k, v in weights if k.startswith("backbone.")}


def images(side: int = 64) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).double()


def errors(maps: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Largest deviation in each map, relative to its largest value."""
    assert [m.shape for m in maps] == [e.shape for e in expected]
    # Neither dead nor blown up.
    assert all(0.2 < (e > 0).double().mean() < 0.95 and e.max() < 100 for e in expected)
    pairs = zip(maps, expected, strict=True)
    return [float((m - e).abs().max() / e.abs().max()) for m, e in pairs]


# Outputs


@torch.no_grad()
@DESIGNS
def test_published_models_equal_the_equations(design):
    backbone, official = (make() for make in PUBLISHED[design])
    maps = load(backbone, official)(images())
    assert max(errors(maps, stage_maps(official, images()))) < 1e-9


@torch.no_grad()
@DESIGNS
@pytest.mark.parametrize("side", [32, 65])
def test_either_family_takes_either_design(design, side):
    backbone, official = (make() for make in CROSSED[design])
    maps = load(backbone, official)(images(side))
    assert max(errors(maps, stage_maps(official, images(side)))) < 1e-9


@torch.no_grad()
@DESIGNS
def test_training_equals_the_equations_and_moves_the_same_statistics(design):
    backbone, official = (make() for make in SMALL[design])
    backbone = load(backbone, official).train()
    maps = backbone(images())
    assert max(errors(maps, stage_maps(official, images(), training=True))) < 1e-9
    moved = ours(official)
    for name, value in backbone.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 8
        else:
            torch.testing.assert_close(value, moved[name], rtol=1e-9, atol=1e-12)


@functools.cache
def small_maps(design: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    backbone, official = (make() for make in SMALL[design])
    return load(backbone, official)(images()), official


@torch.no_grad()
@pytest.mark.parametrize(
    ("design", "mistake"),
    [(design, mistake) for design, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_the_comparison_sees(design, mistake):
    maps, official = small_maps(design)
    assert max(errors(stage_maps(official, images(), mistake=mistake), maps)[2:]) > 1e-3


# Gradients


@DESIGNS
@pytest.mark.parametrize("training", [False, True])
def test_the_shared_weights_gradient_is_the_sum_over_untied_copies(design, training):
    backbone, official = (make() for make in SMALL[design])
    backbone = load(backbone, official).train(training)
    copies: dict[tuple[str, int, str], Tensor] = {}

    def copy(layer: str, block: int, use: str) -> Tensor:
        copies[layer, block, use] = official[f"{layer}.convp"].clone().requires_grad_()
        return copies[layer, block, use]

    maps = stage_maps(official, images(), training=training, tied_weight=copy)
    sum(m.square().mean() for m in maps).backward()
    sum(m.square().mean() for m in backbone(images())).backward()

    assert len(copies) == 2 * (6 + 3)  # stages of 6 and 3 blocks, each uses W and Wᵀ
    for layer in ("layer3", "layer4"):
        gradient = getattr(backbone, layer).weight.grad
        parts = [copy.grad for (at, *_), copy in copies.items() if at == layer]
        largest = gradient.abs().max()
        assert all(part.abs().max() > 1e-3 * largest for part in parts)  # all of them matter
        assert (gradient - sum(parts)).abs().max() < 1e-9 * largest


# Counts


@pytest.mark.parametrize(
    ("design", "tied_stages", "total", "parts"),
    [
        ("resnet", (3, 4), 13_466_176, [9_536, 215_808, 1_219_584, 3_838_464, 8_182_784]),
        ("resnet", (), 23_508_032, [9_536, 215_808, 1_219_584, 7_098_368, 14_964_736]),
        ("resnext", (3, 4), 23_827_776, [9_536, 420_864, 2_405_376, 9_023_488, 11_968_512]),
        ("resnext", (), 86_742_336, [9_536, 420_864, 2_405_376, 55_160_832, 28_745_728]),
    ],
)
def test_published_counts(design, tied_stages, total, parts):
    family = HalfResNet if design == "resnet" else HalfResNeXt
    with torch.device("meta"):
        backbone = family(tied_stages=tied_stages)
    counts = dict.fromkeys(("stem", "layer1", "layer2", "layer3", "layer4"), 0)
    for name, parameter in backbone.named_parameters():
        part = name.split(".")[0]
        counts[part if part in counts else "stem"] += parameter.numel()
    assert list(counts.values()) == parts
    assert sum(parts) == total


@DESIGNS
def test_official_weights_have_the_published_counts(design):
    expected = {"resnet": 13_466_176, "resnext": 25_876_776}
    official = PUBLISHED[design][1]()
    assert sum(value.numel() for value in parameters(official).values()) == expected[design]
    # Each number is used once: nothing is copied or made up.
    assert sum(value.numel() for value in convert(official).values()) == sum(
        value.numel() for value in official.values()
    )
