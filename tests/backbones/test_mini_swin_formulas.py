"""Mini-Swin against the published equations, from official-format weights, in fp64."""

import functools

import pytest
import torch
from official_mini_swin import MISTAKES, PUBLISHED, logits, parameters, random_state_dict
from torch import Tensor, nn
from torch.nn import functional as F
from unsharing import names_of_copies

from halvit_mm.backbones import MiniSwin
from halvit_mm.checkpoints import convert

StateDict = dict[str, Tensor]

#: Differences that are small, though far above rounding.
SMALL_MISTAKES = ("LayerNorm eps 1e-6", "tanh GELU")
#: Four stages, the last of which has one window; pairs of layers.
SMALL = dict(
    dim=16,
    depths=(2, 2, 4, 2),
    num_heads=(2, 2, 4, 4),
    share=(2, 2, 2, 2),
    img_size=64,
    window=2,
    mlp_ratio=2,
)
SIZES = {
    "pairs": SMALL,
    "stages of one block": {**SMALL, "share": (2, 2, 4, 2)},
    "odd windows": {**SMALL, "window": 3, "img_size": 96},
    "shifts in the last stage": {**SMALL, "img_size": 128, "depths": (2, 2, 4)}
    | dict(num_heads=(1, 2, 4), share=(2, 2, 2)),
    "threes, large patches": dict(
        dim=12,
        depths=(3, 6),
        num_heads=(3, 4),
        share=(3, 3),
        img_size=80,
        window=5,
        patch_size=8,
        mlp_ratio=3,
    ),
}


def build(size: dict, **options) -> MiniSwin:
    """The backbone in fp64 and evaluation mode, that weights of such a size are for."""
    arch = {key: size[key] for key in ("dim", "depths", "num_heads")}
    own = {key: size[key] for key in ("share", "patch_size", "mlp_ratio") if key in size}
    options = {**own, "window_size": size["window"], **options}
    return MiniSwin(arch=arch, **options).double().eval()


def ours(official: StateDict) -> StateDict:
    weights = convert(official).items()
    return {k.removeprefix("backbone."): v for k, v in weights if k.startswith("backbone.")}


def classify(backbone: nn.Module, official: StateDict, x: Tensor) -> Tensor:
    features = backbone(x)[-1].mean(dim=(2, 3))
    return F.linear(features, official["head.weight"], official["head.bias"])


def images(side: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1)).double()


def error(found: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest value."""
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    assert 0.1 < expected.std() < 10  # neither dead nor blown up
    return float((found - expected).abs().max() / expected.abs().max())


# Outputs


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_equations(size, training):
    size = SIZES[size]
    official = random_state_dict(**size, num_classes=10)
    backbone = build(size).train(training)
    backbone.load_state_dict(ours(official))
    x = images(size["img_size"])
    assert error(classify(backbone, official, x), logits(official, x)) < 1e-9


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "img_size", "window"),
    [
        ("tiny", 224, 7),
        pytest.param("small", 224, 7, marks=pytest.mark.full),
        pytest.param("base", 224, 7, marks=pytest.mark.full),
        pytest.param("base", 384, 12, marks=pytest.mark.full),
    ],
)
def test_published_models_equal_the_equations(arch, img_size, window):
    official = random_state_dict(**PUBLISHED[arch], img_size=img_size, window=window)
    backbone = MiniSwin(arch=arch, window_size=window).double().eval()
    backbone.load_state_dict(ours(official))
    x = images(img_size, batch=1)
    assert error(classify(backbone, official, x), logits(official, x)) < 1e-9


@functools.cache
def small_model() -> tuple[Tensor, StateDict]:
    official = random_state_dict(**SMALL, num_classes=10)
    backbone = build(SMALL)
    backbone.load_state_dict(ours(official))
    with torch.no_grad():
        return classify(backbone, official, images(64)), official


@torch.no_grad()
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_sees(mistake):
    found, official = small_model()
    seen = error(logits(official, images(64), mistake=mistake), found)
    assert seen > (1e-7 if mistake in SMALL_MISTAKES else 1e-3)


@torch.no_grad()
def test_the_masks_of_unshifted_layers_are_an_option():
    _, official = small_model()
    backbone = build(SMALL, mask_all_steps=False)
    backbone.load_state_dict(ours(official))
    found = classify(backbone, official, images(64))
    expected = logits(official, images(64), mistake="mask only in shifted layers")
    assert error(found, expected) < 1e-9


def test_every_weight_matters_to_the_comparison():
    _, official = small_model()
    weights = {k: v.clone().requires_grad_() for k, v in parameters(official).items()}
    logits({**official, **weights}, images(64)).square().mean().backward()
    matter = {k for k, v in weights.items() if (v.grad.abs() * v.abs()).max() > 1e-6}
    # A constant before the softmax changes nothing, whatever its value.
    assert weights.keys() - matter == {k for k in weights if ".proj_l." in k and "bias" in k}


# Gradients


def test_a_shared_weights_gradient_is_the_sum_over_its_uses_in_the_equations():
    _, official = small_model()
    backbone = build(SMALL)
    backbone.load_state_dict(ours(official))
    copies: dict[str, list[Tensor]] = {}

    def copy(name: str, layer: int) -> Tensor:
        copies.setdefault(name, []).append(official[name].clone().requires_grad_())
        return copies[name][-1]

    logits(official, images(64), shared=copy).square().mean().backward()
    classify(backbone, official, images(64)).square().mean().backward()

    assert len(copies) == 5 * 9  # blocks; weights and biases of four linear layers, the bias table
    # Gradients have the weights' names and shapes, so the converter gives them ours.
    sums = {name: sum(c.grad for c in uses) for name, uses in copies.items()}
    expected = ours({**official, **sums})
    for name, parameter in backbone.named_parameters():
        if ".attn." in name or ".ffn." in name or "rel_pos" in name:
            assert error_of_gradient(parameter.grad, expected[name]) < 1e-9
    for uses in copies.values():
        largest = max(c.grad.abs().max() for c in uses)
        assert len(uses) == 2 and all(c.grad.abs().max() > 1e-2 * largest for c in uses)


@pytest.mark.parametrize(
    "size",
    [
        "pairs",
        "threes, large patches",
        pytest.param("stages of one block", marks=pytest.mark.full),
    ],
)
def test_a_shared_weights_gradient_is_the_sum_over_unshared_copies(size):
    size = SIZES[size]
    official = random_state_dict(**size, num_classes=10)
    # Without sharing no layer has another's mask.
    shared, unshared = build(size, mask_all_steps=False), build(size, share=1)
    shared.load_state_dict(ours(official))
    copies = {}
    for name in shared.state_dict():
        stage = int(name.split(".")[1]) if name.startswith("stages.") else 0
        copies[name] = names_of_copies(name, size["share"][stage])
    unshared.load_state_dict(
        {copy: shared.state_dict()[name] for name in copies for copy in copies[name]}
    )
    x = images(size["img_size"])
    outputs = [classify(model, official, x) for model in (shared, unshared)]
    assert error(*outputs) < 1e-9
    for output in outputs:
        output.square().mean().backward()
    of_copies = dict(unshared.named_parameters())
    for name, parameter in shared.named_parameters():
        if ".mix_logits." in name and "bias" in name:
            assert parameter.grad.abs().max() < 1e-9  # a constant before the softmax
            continue
        summed = sum(of_copies[copy].grad for copy in copies[name])
        assert error_of_gradient(parameter.grad, summed) < 1e-9


def error_of_gradient(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
