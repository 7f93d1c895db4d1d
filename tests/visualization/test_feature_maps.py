"""Feature maps, their colours and their channels, of every backbone."""

import numpy as np
import pytest
import torch

from halvit_mm.backbones import HalfResNet, HalfResNeXt, HaLViT, MiniDeiT, MiniSwin
from halvit_mm.errors import UserError
from halvit_mm.visualization.feature_maps import (
    default_layers,
    feature_maps,
    liveliest_channels,
    principal_components,
)

VIT = dict(arch=dict(dim=12, depth=6, num_heads=2), img_size=32, patch_size=8)
SWIN = dict(arch=dict(dim=8, depths=(2, 4, 2), num_heads=(2, 4, 4)), window_size=3)
TRANSFORMERS = {
    "halvit": (lambda: HaLViT(**VIT), [2, 3, 5]),
    "mini deit": (lambda: MiniDeiT(**VIT, share=3), [2, 3, 5]),
    "mini deit, shared norms": (lambda: MiniDeiT(**VIT, share=6, transforms=()), [2, 3, 5]),
    "mini swin": (lambda: MiniSwin(**SWIN), [1, 5, 7]),
}
RESNETS = {
    "half resnet": lambda: HalfResNet(base_channels=8, out_indices=(3,)),
    "half resnext": lambda: HalfResNeXt(
        depth=50, groups=2, base_width=8, base_channels=8, out_indices=(1, 3)
    ),
}


def build(make):
    backbone = make().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return backbone


def drawn(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 36, 53, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_layers_of_transformers(name):
    """Each layer's own output, also where one block gives several."""
    make, some = TRANSFORMERS[name]
    backbone, images = build(make), drawn()
    maps = feature_maps(backbone, images, range(backbone.num_layers))
    hidden = backbone.forward_features(images, range(backbone.num_layers))[1]
    sizes = [layer.layout.size for layer in backbone.attention_layers((36, 53))]
    extra = getattr(backbone, "num_extra_tokens", 0)
    assert list(maps) == list(range(backbone.num_layers))
    for i, features in maps.items():
        expected = hidden[i].hidden[:, extra:].detach()
        assert features.shape[2:] == sizes[i]
        torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected)
        assert i == 0 or maps[i].shape != maps[i - 1].shape or not maps[i].equal(maps[i - 1])
    chosen = feature_maps(backbone, images, some)
    assert list(chosen) == some
    assert all(chosen[i].equal(maps[i]) for i in some)


@pytest.mark.parametrize("name", RESNETS)
def test_stages_of_resnets(name):
    """All of them, also those that the backbone does not hand on."""
    backbone, images = build(RESNETS[name]), drawn()
    maps = feature_maps(backbone, images)
    assert list(maps) == [0, 1, 2, 3]
    assert [features.shape[1:] for features in maps.values()] == [
        (32, 9, 14),
        (64, 5, 7),
        (128, 3, 4),
        (256, 2, 2),
    ]
    with torch.no_grad():
        for i, out in zip(backbone.out_indices, backbone(images), strict=True):
            torch.testing.assert_close(maps[i], out)
            assert out.std() > 0.01


def test_hooks_are_taken_away():
    backbone = build(TRANSFORMERS["mini deit"][0])
    feature_maps(backbone, drawn())
    assert not any(module._forward_hooks for module in backbone.modules())


def test_what_is_reached_only():
    backbone = build(lambda: MiniSwin(**SWIN, out_indices=(0, 1)))
    assert list(feature_maps(backbone, drawn())) == [1, 5]
    with pytest.raises(UserError, match="--layers 6: this backbone has 6 of them; give 0 to 5"):
        feature_maps(backbone, drawn(), [6])


def test_other_backbones_are_refused():
    with pytest.raises(UserError, match="Conv2d cannot be looked into; HaLViT"):
        feature_maps(torch.nn.Conv2d(3, 3, 1), drawn())


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(4, 4)] * 12, [2, 5, 8, 11]),
        ([(4, 4)] * 24, [5, 11, 17, 23]),
        ([(4, 4)] * 3, [0, 1, 2]),
        ([(4, 4)], [0]),
        ([(8, 8)] * 2 + [(4, 4)] * 6 + [(2, 2)] * 2, [1, 7, 9]),
        ([None] * 4, [0, 1, 2, 3]),
        ([None] * 3, [0, 1, 2]),
    ],
)
def test_default_layers(sizes, expected):
    assert default_layers(sizes) == expected


# Colours


@pytest.mark.parametrize("channels", [7, 30, 200])
def test_principal_components_are_those_of_the_singular_value_decomposition(channels):
    """With fewer and with more channels than places."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(channels, 5, 7)) * np.linspace(1, 4, channels)[:, None, None] + 9
    parts, share = principal_components(torch.from_numpy(features))

    x = features.reshape(channels, 35).T
    x = x - x.mean(0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    for i in range(3):
        expected = (u[:, i] * s[i]).reshape(5, 7)
        found = parts[i].numpy()
        sign = np.sign((found * expected).sum())
        np.testing.assert_allclose(found, sign * expected, atol=1e-8)
    assert share == pytest.approx((s[:3] ** 2).sum() / (s**2).sum())


def test_the_sign_is_that_of_the_greatest_channel():
    ramp = torch.arange(12.0).view(1, 3, 4)
    for sign in (1, -1):
        features = torch.cat((ramp, 5 * sign * ramp, torch.zeros(1, 3, 4)))
        parts, share = principal_components(features)
        assert (parts[0].flatten().diff() * sign > 0).all()
        assert share == pytest.approx(1)
        assert parts[1:].abs().max() < 1e-5


def test_few_channels_and_nothing_at_all():
    parts, share = principal_components(torch.zeros(2, 3, 4))
    assert parts.shape == (3, 3, 4)
    assert (parts == 0).all()
    assert share == 0
    parts, _ = principal_components(torch.randn(8, 1, 1))
    assert parts.shape == (3, 1, 1)
    assert parts.isfinite().all()


def test_liveliest_channels_vary_most_and_are_not_the_highest():
    features = torch.full((5, 4, 4), 100.0)
    for channel, spread in ((3, 4.0), (0, 2.0), (4, 1.0)):
        features[channel] = torch.linspace(-spread, spread, 16).view(4, 4)
    assert liveliest_channels(features, 3) == [3, 0, 4]
