"""Properties of all backbones: every image gives the right maps, or a clear error."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS
from odd_inputs import LAYOUTS, image_shapes, laid_out, random, refused
from torch import nn

import halvit_mm  # noqa: F401

PLAIN = dict(dim=16, depth=2, num_heads=2)
SWIN = dict(dim=8, depths=(2, 2), num_heads=(1, 2))
HALF_CNN = dict(
    depth=50,
    base_channels=8,
    num_stages=2,
    strides=(1, 2),
    dilations=(1, 1),
    tied_stages=(2,),
    out_indices=(0, 1),
)
CASES = {
    "halvit": dict(type="HaLViT", arch=PLAIN, img_size=64, drop_path_rate=0.3, layer_scale=0.1),
    "halvit_windows": dict(
        type="HaLViT",
        arch=PLAIN,
        img_size=(50, 70),
        with_cls_token=False,
        out_type="featmap",
        out_indices=(0, 1),
        window_size=3,
        global_blocks=(1,),
        rel_pos=True,
        signed_ffn=True,
        second_rank=2,
    ),
    "dense_vit": dict(type="HaLViT", arch=PLAIN, img_size=64, tied=False, out_type="raw"),
    "mini_deit": dict(type="MiniDeiT", arch=PLAIN, img_size=64, drop_path_rate=0.3),
    "mini_deit_windows": dict(
        type="MiniDeiT",
        arch=PLAIN,
        img_size=64,
        tied=True,
        window_size=3,
        global_blocks=(1,),
        out_type="featmap",
    ),
    "mini_swin": dict(
        type="MiniSwin", arch=SWIN, window_size=3, out_indices=(0, 1), drop_path_rate=0.3
    ),
    "mini_swin_tied": dict(
        type="MiniSwin", arch=SWIN, window_size=4, tied=True, mask_all_steps=False
    ),
    "swin": dict(type="MiniSwin", arch=SWIN, window_size=3, share=1, transforms=False),
    "half_resnet": dict(type="HalfResNet", **HALF_CNN),
    "half_resnext": dict(type="HalfResNeXt", groups=2, base_width=32, **HALF_CNN),
    "dense_resnet": dict(type="HalfResNet", **{**HALF_CNN, "tied_stages": ()}),
    "group_norm": dict(type="HalfResNet", norm_cfg=dict(type="GN", num_groups=2), **HALF_CNN),
}
#: Those that differ in how they take images.
FAMILIES = ("halvit", "halvit_windows", "mini_deit", "mini_swin", "half_resnet")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@cache
def built(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build({**CASES[name], **options})
    for parameter in model.parameters():  # no gains of 1 and no biases of 0
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@cache
def evaluated(name: str) -> nn.Module:
    """A model in double precision and evaluation mode."""
    return built(name, init_cfg=None).double().eval()


def shapes(name: str, batch: int, height: int, width: int) -> list[tuple[int, ...]]:
    """What the documentation promises."""

    def halved(times: int, first: int) -> tuple[int, int]:
        return tuple(-(-side // (first * 2**times)) for side in (height, width))

    case = CASES[name]
    if case["type"] == "MiniSwin":
        return [(batch, 8 * 2**i, *halved(i, 4)) for i in case.get("out_indices", (1,))]
    if "Half" in case["type"]:
        return [(batch, 32 * 2**i, *halved(i, 4)) for i in case["out_indices"]]
    size = halved(0, 16)
    out_type = case.get("out_type", "vector")
    one = {
        "vector": (batch, 16),
        "raw": (batch, 1 + size[0] * size[1], 16),
        "featmap": (batch, 16, *size),
    }[out_type]
    return [one] * len(case.get("out_indices", (1,)))


def one_value_per_channel(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a BatchNorm has nothing to take a variance of."""
    batch, *_, height, width = shape
    norms = "Half" in CASES[name]["type"] and name != "group_norm"
    # Of the last maps, of stride 8.
    return norms and batch * -(-height // 8) * -(-width // 8) == 1


@given(
    shape=image_shapes(),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(DTYPES),
    train=st.booleans(),
    with_cp=st.booleans(),
)
@pytest.mark.parametrize("name", CASES)
def test_every_image_gives_the_maps_that_are_documented(name, shape, layout, dtype, train, with_cp):
    model = built(name, with_cp=with_cp).to(dtype).train(train)
    x = laid_out(random(*shape, dtype=dtype), layout).requires_grad_()
    if train and one_value_per_channel(name, shape):
        refused(lambda: model(x), "Expected more than 1 value per channel")
        return
    outs = model(x)
    assert [tuple(out.shape) for out in outs] == shapes(name, shape[0], *shape[2:])
    assert all(out.dtype == dtype and out.isfinite().all() for out in outs)

    model.zero_grad()
    sum(out.float().square().mean() if out.numel() else out.sum() for out in outs).backward()
    assert x.grad.shape == x.shape and x.grad.isfinite().all()
    # Unless their branch was dropped.
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    if not shape[0]:
        assert not any(grad.any() for grad in grads.values())
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@given(shape=image_shapes(), dtype=st.sampled_from([torch.bfloat16, torch.float16]))
@pytest.mark.parametrize("name", FAMILIES)
def test_autocast_takes_all_types_of_half_and_single_precision(name, shape, dtype):
    model = built(name).float().eval()
    with torch.autocast("cpu", dtype):
        for given_dtype in (torch.float32, dtype):
            outs = model(random(*shape, dtype=given_dtype))
            assert [tuple(out.shape) for out in outs] == shapes(name, shape[0], *shape[2:])
            assert all(out.isfinite().all() for out in outs)
        refused(lambda: model(random(1, 3, 8, 8, dtype=torch.float64)), "torch.float64")


@given(shape=image_shapes(least_batch=2, most_pixels=2**15), layout=st.sampled_from(LAYOUTS))
@pytest.mark.parametrize("name", CASES)
def test_images_do_not_know_of_each_other_nor_of_their_layout(name, shape, layout):
    model = evaluated(name)
    x = laid_out(random(*shape, dtype=torch.float64), layout)
    with torch.no_grad():
        together = model(x)
        assert all(torch.equal(*pair) for pair in zip(together, model(x), strict=True))
        assert_close(model(x.contiguous()), together)
        alone = [model(image[None]) for image in x]
        assert_close([torch.cat(maps) for maps in zip(*alone, strict=True)], together)


@given(shape=image_shapes(least_batch=2, most_pixels=2**14), where=st.integers(0, 3))
@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_that_is_no_number_spoils_no_other(name, shape, where):
    model = evaluated(name)
    x = random(*shape, dtype=torch.float64)
    bad = where % len(x)
    others = [i for i in range(len(x)) if i != bad]
    with torch.no_grad():
        clean = model(x)
        x[bad] = float("nan")
        outs = model(x)
    assert_close([out[others] for out in outs], [out[others] for out in clean])
    assert all(out[bad].isnan().any() for out in outs)


@given(shape=image_shapes(least_batch=1, most_pixels=2**14))
@pytest.mark.parametrize("name", ["halvit", "halvit_windows", "mini_deit_windows", "mini_swin"])
def test_images_are_padded_by_zeros_to_whole_patches(name, shape):
    model = evaluated(name)
    patch = model.patch_size
    x = random(*shape, dtype=torch.float64)
    height, width = (-(-side // patch) * patch for side in shape[2:])
    padded = x.new_zeros(*shape[:2], height, width)
    padded[..., : shape[2], : shape[3]] = x
    with torch.no_grad():
        assert_close(model(x), model(padded))


def assert_close(outs, expected) -> None:
    for out, right in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, right, rtol=1e-9, atol=1e-9, equal_nan=True)


@st.composite
def wrong_images(draw) -> tuple[str, object]:
    """Something that is no batch of images with 3 channels in single precision, and why not."""
    batch, _, height, width = draw(image_shapes(most_pixels=2**12))
    kind = draw(st.sampled_from(["dimensions", "channels", "empty", "type", "nothing"]))
    if kind == "dimensions":
        lengths = draw(st.sampled_from([(), (3,), (3, 4), (3, 8, 8), (1, 1, 3, 8, 8)]))
        return "(B, 3, height, width)", random(*lengths)
    if kind == "channels":
        channels = draw(st.integers(0, 8).filter(lambda c: c != 3))
        return "(B, 3, height, width)", random(batch, channels, height, width)
    if kind == "empty":
        sides = draw(st.sampled_from([(0, width), (height, 0), (0, 0)]))
        return "sides of at least 1", random(batch, 3, *sides)
    if kind == "type":
        dtypes = [torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float64]
        dtype = draw(st.sampled_from([*dtypes, torch.bfloat16, torch.float16]))
        return f"images of {dtype}", torch.zeros(batch, 3, height, width, dtype=dtype)
    x = random(1, 3, 8, 8)
    return "one tensor", draw(st.sampled_from([None, x.numpy(), x.tolist(), [x], (x, x), "x"]))


@given(wrong=wrong_images(), train=st.booleans())
@pytest.mark.parametrize("name", FAMILIES)
def test_what_are_no_images_is_refused_in_one_sentence(name, wrong, train):
    words, x = wrong
    model = built(name).float().train(train)
    assert "images" in refused(lambda: model(x), words)


def test_a_batch_without_images_leaves_running_statistics_finite():
    model = built("half_resnet", init_cfg=None, norm_eval=False).float().train()
    model(torch.zeros(0, 3, 32, 32))
    assert all(buffer.isfinite().all() for buffer in model.buffers())


#: Every named architecture, in which nothing but shapes is computed.
NAMED = [
    *(dict(type="HaLViT", arch=arch) for arch in ("nano", "tiny", "medium", "large")),
    *(dict(type="MiniDeiT", arch=arch) for arch in ("tiny", "small", "base")),
    *(dict(type="MiniSwin", arch=arch) for arch in ("tiny", "small", "base")),
    *(dict(type="HalfResNet", depth=depth) for depth in (50, 101, 152)),
    dict(type="HalfResNeXt", depth=101),
]
WIDTHS = {"nano": 192, "tiny": 384, "medium": 768, "large": 1024}
DEIT_WIDTHS = {"tiny": 192, "small": 384, "base": 768}


@cache
def named(**config) -> nn.Module:
    with torch.device("meta"):
        return MODELS.build(config).eval()


@settings(max_examples=settings.default.max_examples // 5)
@given(shape=image_shapes())
@pytest.mark.parametrize("config", NAMED, ids=lambda config: "-".join(map(str, config.values())))
def test_named_architectures_have_the_shapes_that_are_documented(config, shape):
    (*_, out) = named(**config)(torch.empty(shape, device="meta"))
    assert tuple(out.shape) == last_shape(config, shape[0], *shape[2:])


def last_shape(config: dict, batch: int, height: int, width: int) -> tuple[int, ...]:
    if config["type"] == "HaLViT":
        return batch, WIDTHS[config["arch"]]
    if config["type"] == "MiniDeiT":
        return batch, DEIT_WIDTHS[config["arch"]]
    size = tuple(-(-side // 32) for side in (height, width))
    if config["type"] == "MiniSwin":
        return batch, 8 * (128 if config["arch"] == "base" else 96), *size
    return batch, 2048, *size
