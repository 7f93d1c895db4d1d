"""Attention maps against what the layers of every backbone with attention give."""

import pytest
import torch
from torch import Tensor, nn

from halvit_mm.backbones import HalfResNet, HalfResNeXt, HaLViT, MiniDeiT, MiniSwin
from halvit_mm.errors import UserError
from halvit_mm.visualization import attention
from halvit_mm.visualization.attention import attention_maps, weighted_by

ARCH = dict(dim=12, depth=3, num_heads=2)
VIT = dict(arch=ARCH, img_size=32, patch_size=8)
PLAIN = dict(with_cls_token=False)
SWIN = dict(arch=dict(dim=8, depths=(2, 4), num_heads=(2, 4)), window_size=3)
#: Sides of no multiple of patches or windows, and more columns than rows.
SIZE = (36, 53)

BACKBONES = {
    "halvit": lambda: HaLViT(**VIT, **PLAIN),
    "halvit, dense": lambda: HaLViT(**VIT, **PLAIN, tied=False),
    "halvit, relative positions": lambda: HaLViT(**VIT, **PLAIN, rel_pos=True),
    "halvit, windows": lambda: HaLViT(**VIT, **PLAIN, window_size=2, global_blocks=(1,)),
    "halvit, windows, relative positions": lambda: HaLViT(
        **VIT, **PLAIN, window_size=3, global_blocks=(2,), rel_pos=True
    ),
    "mini deit": lambda: MiniDeiT(**VIT, share=3),
    "mini deit, tied": lambda: MiniDeiT(**VIT, share=3, tied=True),
    "mini deit, shared norms": lambda: MiniDeiT(**VIT, share=3, transforms=("mix_weights",)),
    "mini deit, windows": lambda: MiniDeiT(**VIT, share=1, window_size=2),
    "deit": lambda: MiniDeiT(**VIT, share=1, transforms=False),
    "mini swin": lambda: MiniSwin(**SWIN),
    "mini swin, tied": lambda: MiniSwin(**SWIN, tied=True),
    "mini swin, its own masks": lambda: MiniSwin(**SWIN, mask_all_steps=False),
    "swin": lambda: MiniSwin(**SWIN, share=1, transforms=False),
}
WITH_CLS = {
    "halvit": lambda: HaLViT(**VIT),
    "halvit, dense": lambda: HaLViT(**VIT, tied=False),
    "mini deit": lambda: MiniDeiT(
        **VIT, share=3, transforms=("norm", "mix_logits", "mix_weights"), with_cls_token=True
    ),
}


def build(make, seed: int = 0) -> nn.Module:
    """A backbone in double precision in which no parameter is zero."""
    generator = torch.Generator().manual_seed(seed)
    backbone = make().double().eval()
    for parameter in backbone.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator).double()
    return backbone


def drawn(size: tuple[int, int] = SIZE, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, *size, generator=generator).double()


def attended(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """What each layer's attention gives, still in windows, taken from the modules themselves."""
    found = []
    blocks = [m for m in backbone.modules() if hasattr(m, "attn")]
    for block in blocks:
        block.attn.register_forward_hook(lambda _, __, output: found.append(output[0]))
    with torch.no_grad():
        backbone.forward_features(images, ())
    for block in blocks:
        block.attn._forward_hooks.clear()
    return found


def centre(row: int, column: int, stride: int) -> tuple[float, float]:
    return (row + 0.5) * stride, (column + 0.5) * stride


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_maps_and_values_make_up_what_attention_gives(name):
    """At each place Σ_j map_j · v_j over the whole image, projected, is the layer's attention."""
    backbone, images = build(BACKBONES[name]), drawn()
    outputs = attended(backbone, images)
    stack = backbone.attention_layers(SIZE)
    assert len(outputs) == len(stack) == backbone.num_layers
    features = backbone.forward_features(images, range(len(stack)))[1]
    strides = {layer.stride for layer in stack}
    every_place = {
        (row, column, stride): attention_maps(
            backbone,
            images,
            [i for i, layer in enumerate(stack) if layer.stride == stride],
            query=centre(row, column, stride),
        )
        for stride in strides
        for row in range(-(-SIZE[0] // stride))
        for column in range(-(-SIZE[1] // stride))
        if all(at < side for at, side in zip(centre(row, column, stride), SIZE, strict=True))
    }
    for i, (layer, output) in enumerate(zip(stack, outputs, strict=True)):
        height, width = layer.layout.size
        heads = layer.num_heads
        values = layer.layout.merge(features[i].qkv[2]).unflatten(2, (heads, -1))
        values = values.unflatten(1, (height, width))  # (B, H, W, heads, head_dim)
        expected = layer.layout.merge(output).unflatten(1, (height, width))
        checked = 0
        for (row, column, stride), maps in every_place.items():
            if stride != layer.stride:
                continue
            assert maps[i].shape == (2, heads, height, width)
            mixed = torch.einsum("bhyx,byxhd->bhd", maps[i], values).flatten(1)
            found = layer.block.attn.project_out(mixed[:, None])[:, 0]
            torch.testing.assert_close(found, expected[:, row, column], rtol=0, atol=1e-10)
            checked += 1
        assert checked >= 3 * 4
        assert expected.std() > 0.05


@pytest.mark.parametrize("name", WITH_CLS)
@torch.no_grad()
def test_the_class_token_looks_and_is_looked_at(name):
    backbone, images = build(WITH_CLS[name]), drawn()
    outputs = attended(backbone, images)
    stack = backbone.attention_layers(SIZE)
    features = backbone.forward_features(images, range(len(stack)))[1]
    of_cls = attention_maps(backbone, images, query="cls")
    of_place = attention_maps(backbone, images, query=centre(2, 5, 8))
    for i, (layer, output) in enumerate(zip(stack, outputs, strict=True)):
        height, width = layer.layout.size
        assert (height, width) == (5, 7)
        values = features[i].qkv[2].unflatten(2, (2, -1))
        for token, maps in ((0, of_cls), (1 + 2 * width + 5, of_place)):
            by = images.new_zeros(2, 1 + height * width)
            by[:, token] = 1
            weights = weighted_by(by, layer, features[i].qkv)  # with what goes to the class token
            mixed = torch.einsum("bhn,bnhd->bhd", weights, values).flatten(1)
            found = layer.block.attn.project_out(mixed[:, None])[:, 0]
            torch.testing.assert_close(found, output[:, token], rtol=0, atol=1e-10)
            torch.testing.assert_close(maps[i], weights[:, :, 1:].unflatten(2, (height, width)))


@pytest.mark.parametrize("name", ["halvit", "halvit, windows, relative positions", "swin"])
def test_weights_of_a_place_add_up_to_1(name):
    maps = attention_maps(build(BACKBONES[name]), drawn(), query=(17, 30))
    for looked_at in maps.values():
        torch.testing.assert_close(
            looked_at.sum((2, 3)), torch.ones(()).double().expand(looked_at.shape[:2])
        )
        assert (looked_at >= 0).all()


def test_mixed_heads_are_shown_after_mixing():
    backbone = build(BACKBONES["mini deit"])
    maps = attention_maps(backbone, drawn(), query=(17, 30))
    for i, looked_at in maps.items():
        sums = backbone.blocks[0].mix_weights[i].weight.sum(1)
        torch.testing.assert_close(looked_at.sum((2, 3)), sums.expand(2, -1))


@pytest.mark.parametrize("name", BACKBONES)
def test_all_places_are_the_sum_of_each(name):
    backbone, images = build(BACKBONES[name]), drawn(batch=1)
    layer = backbone.attention_layers(SIZE)[-1]
    (last,) = attention_maps(backbone, images, [-1]).values()
    total = torch.zeros_like(last)
    rows, columns = layer.layout.size
    for row in range(rows):
        for column in range(columns):
            place = tuple(
                min(at, side - 1)
                for at, side in zip(centre(row, column, layer.stride), SIZE, strict=True)
            )
            total += attention_maps(backbone, images, [-1], query=place)[backbone.num_layers - 1]
    torch.testing.assert_close(last, total, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["halvit", "halvit, windows", "swin"])
def test_even_attention_is_1_everywhere(name):
    """Also at the rims of padded and shifted maps."""
    backbone = build(BACKBONES[name])
    for parameter_name, parameter in backbone.named_parameters():
        if ".attn." in parameter_name or "rel_pos" in parameter_name:
            parameter.data.zero_()
    for looked_at in attention_maps(backbone, drawn()).values():
        torch.testing.assert_close(looked_at, torch.ones_like(looked_at))


@pytest.mark.parametrize("name", ["halvit", "mini deit", "mini swin"])
def test_made_in_pieces_they_are_the_same(name, monkeypatch):
    backbone, images = build(BACKBONES[name]), drawn()
    whole = attention_maps(backbone, images)
    sizes = []
    weights = type(backbone.attention_layers(SIZE)[0]).weights

    def recorded(self, qkv, queries=slice(None)):
        made = weights(self, qkv, queries)
        sizes.append(made.numel())
        return made

    monkeypatch.setattr("halvit_mm.layers.LayerAttention.weights", recorded)
    monkeypatch.setattr(attention, "ELEMENTS", 1000)
    in_pieces = attention_maps(backbone, images)
    assert len(sizes) > 2 * backbone.num_layers
    # More than asked for only where one row of all windows is.
    assert max(sizes) < 1000 or name == "mini swin"
    for i, looked_at in whole.items():
        torch.testing.assert_close(in_pieces[i], looked_at, rtol=1e-10, atol=1e-10)


def test_one_query_makes_one_piece(monkeypatch):
    """Not the weights of 4,200 others, in images of detectors."""
    backbone, images = build(BACKBONES["halvit"]), drawn()
    made = []
    monkeypatch.setattr(attention, "ELEMENTS", 1)
    weights = type(backbone.attention_layers(SIZE)[0]).weights
    monkeypatch.setattr(
        "halvit_mm.layers.LayerAttention.weights",
        lambda *args: made.append(args[2]) or weights(*args),
    )
    attention_maps(backbone, images, [1], query=centre(1, 2, 8))
    assert made == [slice(1 * 7 + 2, 1 * 7 + 3)]


# Rollout


def matrices(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """(A + I) / 2 of each layer: A is the mean over heads, without what is negative, rows to 1."""
    stack = backbone.attention_layers(SIZE)
    features = backbone.forward_features(images, range(len(stack)))[1]
    result = []
    for i, layer in enumerate(stack):
        mean = layer.weights(features[i].qkv).mean(1).clamp(min=0)
        mean = mean / mean.sum(2, keepdim=True)
        result.append((mean + torch.eye(mean.shape[1])) / 2)
    return result


@pytest.mark.parametrize(
    ("make", "query"),
    [
        (WITH_CLS["halvit"], "cls"),
        (WITH_CLS["halvit"], "mean"),
        (WITH_CLS["mini deit"], "cls"),
        (BACKBONES["halvit"], (20, 45)),
        (BACKBONES["mini deit"], "mean"),
    ],
)
@torch.no_grad()
def test_rollout_is_the_product_of_matrices(make, query):
    backbone, images = build(make), drawn()
    for name, parameter in backbone.named_parameters():
        if "mix_weights" in name:  # every token attends to something, even on average over heads
            parameter.data += torch.eye(2)
    extra = backbone.num_extra_tokens
    maps = attention_maps(backbone, images, [1, 2], query=query, rollout=True)
    assert list(maps) == [1, 2]
    first, second, third = matrices(backbone, images)
    for i, flow in ((1, second @ first), (2, third @ second @ first)):
        rows = {"cls": slice(0, 1), "mean": slice(None)}.get(
            query, slice(extra + 2 * 7 + 5, extra + 2 * 7 + 6)
        )
        expected = flow[:, rows].sum(1)[:, extra:].unflatten(1, (5, 7))
        torch.testing.assert_close(maps[i], expected[:, None], rtol=1e-10, atol=1e-10)


def test_rollout_shows_the_last_layer_by_default():
    assert list(attention_maps(build(WITH_CLS["halvit"]), drawn(), rollout=True)) == [2]


# What cannot be shown


@pytest.mark.parametrize("make", [lambda: HalfResNet(depth=50), lambda: HalfResNeXt(depth=101)])
def test_resnets_have_no_attention(make):
    backbone = make()
    with pytest.raises(
        UserError, match=rf"{type(backbone).__name__} has no attention.*features.*gradcam"
    ):
        attention_maps(backbone, torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("halvit", dict(query="cls"), "--query cls: .* no class token; give mean"),
        ("halvit", dict(query=(36, 1)), "--query 36,1: this place is not in the image"),
        ("halvit", dict(query=(1, -1)), "--query 1,-1: this place is not in the image"),
        ("halvit", dict(layers=[3]), "--layers 3: .* has 3 of them; give 0 to 2"),
        ("swin", dict(layers=[-7]), "--layers -7: .* has 6 of them"),
        ("swin", dict(rollout=True), "--rollout: MiniSwin merges tokens"),
    ],
)
def test_what_is_not_there_is_said(name, options, sentence):
    with pytest.raises(UserError, match=sentence):
        attention_maps(build(BACKBONES[name]), drawn(), **options)
