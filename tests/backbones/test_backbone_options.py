"""Options of all backbones: each value works, or is refused by a sentence that names the option."""

import inspect
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import MODELS
from odd_inputs import WRONG_VALUES, random, refused
from torch import nn

import halvit_mm  # noqa: F401

PLAIN = dict(dim=12, depth=4, num_heads=3)
SWIN = dict(dim=4, depths=(2, 2), num_heads=(1, 2))
BASES = {
    "HaLViT": dict(arch=PLAIN, img_size=32),
    "MiniDeiT": dict(arch=PLAIN, img_size=32),
    "MiniSwin": dict(arch=SWIN, window_size=3),
    "HalfResNet": dict(
        base_channels=4,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        tied_stages=(2,),
        out_indices=(0, 1),
    ),
}


def options_of(family: str) -> list[str]:
    return [name for name in inspect.signature(MODELS.get(family)).parameters if name != "init_cfg"]


def works_or_is_refused(make, images: torch.Tensor, *words: str) -> None:
    """Neither constructing nor running a model may end in anything but a clear sentence."""
    try:
        model = make().eval()
    except (ValueError, TypeError):
        refused(make, *words)
        return
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    if first.in_channels == images.shape[1]:
        assert all(out.isfinite().all() for out in model(images))


@pytest.mark.parametrize(
    ("family", "option"),
    [(family, option) for family in BASES for option in options_of(family)],
)
def test_each_option_takes_a_value_or_names_itself(family, option):
    images = random(1, 3, 32, 32)
    for value in WRONG_VALUES:
        make = partial(MODELS.get(family), **{**BASES[family], option: value})
        works_or_is_refused(make, images, option)


@pytest.mark.parametrize("key", ["dim", "depth", "num_heads", "depths"])
@pytest.mark.parametrize("family", ["HaLViT", "MiniDeiT", "MiniSwin"])
def test_each_part_of_an_architecture_takes_a_value_or_names_itself(family, key):
    images = random(1, 3, 32, 32)
    for value in WRONG_VALUES:
        arch = {**BASES[family]["arch"], key: value}
        make = partial(MODELS.get(family), **{**BASES[family], "arch": arch})
        works_or_is_refused(make, images, key.removesuffix("s"))


INDICES = st.one_of(st.integers(-7, 7), st.lists(st.integers(-7, 7), max_size=5).map(tuple))


@given(indices=INDICES)
@pytest.mark.parametrize("family", BASES)
def test_outputs_are_those_asked_for_in_increasing_order(family, indices):
    count = 4 if "arch" in BASES[family] and family != "MiniSwin" else 2
    asked = (indices,) if isinstance(indices, int) else indices
    make = partial(MODELS.get(family), **{**BASES[family], "out_indices": indices})
    if not asked or not all(-count <= i < count for i in asked):
        refused(make, "out_indices", f"between {-count} and {count - 1}")
        return
    right = sorted({i % count for i in asked})
    every = MODELS.get(family)(**{**BASES[family], "out_indices": range(count)}).double().eval()
    some = make().double().eval()
    some.load_state_dict(every.state_dict(), strict=False)
    x = random(1, 3, 40, 24, dtype=torch.float64)
    outs, all_outs = some(x), every(x)
    assert len(outs) == len(right)
    for i, out in zip(right, outs, strict=True):
        torch.testing.assert_close(out, all_outs[i])


@given(
    patch=st.integers(1, 20),
    img_size=st.one_of(st.integers(1, 60), st.tuples(st.integers(1, 60), st.integers(1, 60))),
    window=st.integers(0, 9),
    cls=st.booleans(),
    rel_pos=st.booleans(),
    out_type=st.sampled_from([None, "cls_token", "avg_featmap", "featmap", "raw"]),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    rate=st.floats(0, 1),
    frozen=st.integers(-1, 4),
)
def test_any_patch_image_and_window_size_works(
    patch, img_size, window, cls, rel_pos, out_type, size, rate, frozen
):
    make = partial(
        MODELS.get("HaLViT"),
        arch=PLAIN,
        patch_size=patch,
        img_size=img_size,
        window_size=window,
        with_cls_token=cls,
        rel_pos=rel_pos,
        out_type=out_type,
        drop_path_rate=rate,
        frozen_stages=frozen,
        global_blocks=(3,),
    )
    if cls and (window or rel_pos):
        refused(make, "with_cls_token=False")
        return
    if out_type == "cls_token" and not cls:
        refused(make, "with_cls_token=True")
        return
    (out,) = make().train()(random(2, 3, *size))
    grid = tuple(-(-side // patch) for side in size)
    expected = {
        "featmap": (2, 12, *grid),
        "raw": (2, cls + grid[0] * grid[1], 12),
    }.get(out_type, (2, 12))
    assert tuple(out.shape) == expected and out.isfinite().all()


@given(
    patch=st.integers(1, 6),
    window=st.integers(1, 9),
    share=st.sampled_from([1, 2, (2, 1)]),
    published_masks=st.booleans(),
    size=st.tuples(st.integers(1, 48), st.integers(1, 48)),
    rate=st.floats(0, 1),
    frozen=st.integers(-1, 2),
)
def test_any_window_of_mini_swin_works(patch, window, share, published_masks, size, rate, frozen):
    model = MODELS.get("MiniSwin")(
        arch=SWIN,
        patch_size=patch,
        window_size=window,
        share=share,
        mask_all_steps=published_masks,
        drop_path_rate=rate,
        frozen_stages=frozen,
        out_indices=(0, 1),
    ).train()
    x = random(2, 3, *size).requires_grad_(frozen < 0)
    outs = model(x)
    for i, out in enumerate(outs):
        expected = (2, 4 * 2**i, *(-(-side // (patch * 2**i)) for side in size))
        assert tuple(out.shape) == expected and out.isfinite().all()
    if frozen < 2:
        sum(out.square().sum() for out in outs).backward()
        learning = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)


@pytest.mark.parametrize("norm_eval", [False, True])
@pytest.mark.parametrize("frozen", range(-1, 3))
def test_frozen_parts_and_norms_stay_in_evaluation_mode(frozen, norm_eval):
    model = MODELS.get("HalfResNet")(
        **BASES["HalfResNet"], frozen_stages=frozen, norm_eval=norm_eval
    )
    model.train()
    parts = {"bn1": 0, "layer1": 1, "layer2": 2}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            part = parts[name.split(".")[0]]
            assert module.training == (part > frozen and not norm_eval)
            assert module.weight.requires_grad == (part > frozen)


@pytest.mark.parametrize(
    "norm_cfg",
    [
        dict(type="no such norm"),
        dict(num_groups=2),
        dict(type="GN"),
        dict(type="GN", num_groups=3),
        dict(type="BN", foo=1),
        dict(type=1),
        dict(type="LN"),
    ],
    ids=str,
)
def test_a_norm_that_cannot_be_made_is_named(norm_cfg):
    make = partial(MODELS.get("HalfResNet"), **BASES["HalfResNet"], norm_cfg=norm_cfg)
    refused(make, "norm_cfg")
