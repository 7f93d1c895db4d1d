"""Properties of the feature pyramid: any map gives the right maps, or a clear error."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_inputs import LAYOUTS, WRONG_VALUES, laid_out, random, refused

from halvit_mm.necks import SimpleFeaturePyramid

STRIDES = st.lists(st.sampled_from([2, 4, 8, 16, 32, 64]), min_size=1, max_size=4, unique=True)
BASE = dict(in_channels=16, out_channels=4, patch_stride=16, strides=(4, 8, 16, 32), num_outs=5)


@given(
    batch=st.integers(0, 3),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    strides=STRIDES,
    more=st.integers(0, 3),
    extra_convs=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_any_map_gives_maps_of_all_strides(batch, size, strides, more, extra_convs, layout, dtype):
    options = dict(strides=strides, num_outs=len(strides) + more, extra_convs=extra_convs)
    neck = SimpleFeaturePyramid(**{**BASE, **options}).to(dtype)
    x = laid_out(random(batch, 16, *size, dtype=dtype), layout).requires_grad_()
    outs = neck((None, x))
    coarser = [strides[-1] * 2**i for i in range(1, more + 1)]
    expected = [tuple(-(-side * 16 // stride) for side in size) for stride in (*strides, *coarser)]
    if more:  # halved again and again, each time rounded up
        for i in range(len(strides), len(expected)):
            expected[i] = tuple(-(-side // 2) for side in expected[i - 1])
    assert [tuple(out.shape) for out in outs] == [(batch, 4, *sides) for sides in expected]
    assert all(out.is_contiguous() and out.dtype == dtype for out in outs[: len(strides)])
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().sum() for out in outs).backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in neck.parameters())


@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20)), layout=st.sampled_from(LAYOUTS))
def test_images_do_not_know_of_each_other_nor_of_their_layout(size, layout):
    neck = SimpleFeaturePyramid(**BASE).double().eval()
    x = laid_out(random(3, 16, *size, dtype=torch.float64), layout)
    together = neck((x,))
    for i, image in enumerate(x):
        for out, alone in zip(together, neck((image[None].contiguous(),)), strict=True):
            torch.testing.assert_close(out[i : i + 1], alone)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((), "tuple of maps"),
        (None, "tuple of maps"),
        (random(1, 16, 2, 2), "tuple of maps"),
        ((None,), "one tensor, not NoneType"),
        ((random(1, 8, 2, 2),), "(B, 16, height, width)"),
        ((random(16, 2, 2),), "(B, 16, height, width)"),
        ((random(1, 16, 0, 2),), "sides of at least 1"),
        ((random(1, 16, 2, 2, dtype=torch.float64),), "torch.float64"),
        ((torch.zeros(1, 16, 2, 2, dtype=torch.uint8),), "torch.uint8"),
    ],
    ids=range(9),
)
def test_other_inputs_are_refused_in_one_sentence(inputs, words):
    neck = SimpleFeaturePyramid(**BASE)
    refused(lambda: neck(inputs), words)


@pytest.mark.parametrize("option", [*BASE, "extra_convs"])
def test_each_option_takes_a_value_or_names_itself(option):
    word = {"strides": "stride"}.get(option, option)
    for value in WRONG_VALUES:
        options = {**BASE, option: value}
        try:
            neck = SimpleFeaturePyramid(**options)
        except (ValueError, TypeError):
            refused(partial(SimpleFeaturePyramid, **options), word)
            continue
        outs = neck((random(1, options["in_channels"], 3, 2),))
        assert len(outs) == options["num_outs"] and all(out.isfinite().all() for out in outs)
