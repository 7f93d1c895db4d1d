"""Mini-DeiT against the published equations, from official-format weights, in fp64."""

import functools

import pytest
import torch
from official_mini_deit import MISTAKES, PUBLISHED, logits, random_state_dict
from torch import Tensor, nn
from torch.nn import functional as F
from unsharing import names_of_copies

from halvit_mm.backbones import MiniDeiT
from halvit_mm.checkpoints import convert

StateDict = dict[str, Tensor]

#: Differences that are small, though far above rounding.
SMALL_MISTAKES = ("LayerNorm eps 1e-5", "tanh GELU")
SMALL = dict(dim=24, depth=4, num_heads=3, share=2, img_size=48, patch_size=8, mlp_ratio=2)
SIZES = {
    "pairs": SMALL,
    "one block": {**SMALL, "share": 4},
    "threes, odd sizes": dict(
        dim=20, depth=6, num_heads=4, share=3, img_size=63, patch_size=7, mlp_ratio=3
    ),
    "a map larger than the buckets": {**SMALL, "img_size": 96},
}


def build(size: dict, **options) -> MiniDeiT:
    """The backbone in fp64 and evaluation mode, that weights of such a size are for."""
    options = {
        **{k: v for k, v in size.items() if k not in ("dim", "depth", "num_heads")},
        **options,
    }
    arch = {key: size[key] for key in ("dim", "depth", "num_heads")}
    return MiniDeiT(arch=arch, **options).double().eval()


def ours(official: StateDict) -> StateDict:
    weights = convert(official).items()
    return {k.removeprefix("backbone."): v for k, v in weights if k.startswith("backbone.")}


def classify(backbone: nn.Module, official: StateDict, x: Tensor) -> Tensor:
    return F.linear(backbone(x)[-1], official["head.weight"], official["head.bias"])


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
    ("arch", "img_size", "share"),
    [
        ("tiny", 224, 2),
        pytest.param("small", 224, 2, marks=pytest.mark.full),
        pytest.param("base", 224, 2, marks=pytest.mark.full),
        pytest.param("base", 384, 2, marks=pytest.mark.full),
        pytest.param("base", 224, 12, marks=pytest.mark.full),
    ],
)
def test_published_models_equal_the_equations(arch, img_size, share):
    official = random_state_dict(**PUBLISHED[arch], img_size=img_size, share=share)
    backbone = MiniDeiT(arch=arch, img_size=img_size, share=share).double().eval()
    backbone.load_state_dict(ours(official))
    x = images(img_size, batch=1)
    assert error(classify(backbone, official, x), logits(official, x)) < 1e-9


@functools.cache
def small_model() -> tuple[Tensor, StateDict]:
    official = random_state_dict(**SMALL, num_classes=10)
    backbone = build(SMALL)
    backbone.load_state_dict(ours(official))
    with torch.no_grad():
        return classify(backbone, official, images(48)), official


@torch.no_grad()
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_sees(mistake):
    found, official = small_model()
    seen = error(logits(official, images(48), mistake=mistake), found)
    assert seen > (1e-7 if mistake in SMALL_MISTAKES else 1e-3)


def test_every_weight_matters_to_the_comparison():
    _, official = small_model()
    weights = {name: value.clone().requires_grad_() for name, value in official.items()}
    logits(weights, images(48)).square().mean().backward()
    assert all((value.grad.abs() * value.abs()).max() > 1e-6 for value in weights.values())


# Gradients


def test_a_shared_weights_gradient_is_the_sum_over_its_uses_in_the_equations():
    _, official = small_model()
    backbone = build(SMALL)
    backbone.load_state_dict(ours(official))
    copies: dict[str, list[Tensor]] = {}

    def copy(name: str, layer: int) -> Tensor:
        copies.setdefault(name, []).append(official[name].clone().requires_grad_())
        return copies[name][-1]

    logits(official, images(48), shared=copy).square().mean().backward()
    classify(backbone, official, images(48)).square().mean().backward()

    assert len(copies) == 2 * 8  # blocks; weights and biases of four linear layers
    # Gradients have the weights' names and shapes, so the converter gives them ours.
    sums = {name: sum(c.grad for c in uses) for name, uses in copies.items()}
    expected = ours({**official, **sums})
    for name, parameter in backbone.named_parameters():
        if ".attn." in name or ".ffn." in name:
            assert error_of_gradient(parameter.grad, expected[name]) < 1e-9
    for uses in copies.values():
        largest = max(c.grad.abs().max() for c in uses)
        assert len(uses) == 2 and all(c.grad.abs().max() > 1e-2 * largest for c in uses)


@pytest.mark.parametrize("size", ["pairs", "one block", "threes, odd sizes"])
def test_a_shared_weights_gradient_is_the_sum_over_unshared_copies(size):
    size = SIZES[size]
    official = random_state_dict(**size, num_classes=10)
    shared, unshared = build(size), build(size, share=1)
    shared.load_state_dict(ours(official))
    copies = {name: names_of_copies(name, size["share"]) for name in shared.state_dict()}
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
        summed = sum(of_copies[copy].grad for copy in copies[name])
        assert error_of_gradient(parameter.grad, summed) < 1e-9


def error_of_gradient(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
