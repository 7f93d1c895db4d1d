"""The simple feature pyramid: strides, extra levels, errors."""

import pytest
import torch
from torch.nn import functional as F

from halvit_mm.necks import SimpleFeaturePyramid


def test_mask_rcnn_levels():
    neck = SimpleFeaturePyramid(in_channels=24, out_channels=16)
    outs = neck((torch.randn(2, 24, 6, 10),))
    assert [tuple(out.shape) for out in outs] == [
        (2, 16, 24, 40), (2, 16, 12, 20), (2, 16, 6, 10), (2, 16, 3, 5), (2, 16, 2, 3),
    ]  # fmt: skip
    assert torch.equal(outs[4], F.max_pool2d(outs[3], 1, 2))


def test_retinanet_levels():
    neck = SimpleFeaturePyramid(
        in_channels=24, out_channels=16, strides=(8, 16, 32), num_outs=5, extra_convs=True
    )
    outs = neck((torch.randn(1, 24, 16, 16),))
    assert [out.shape[-1] for out in outs] == [32, 16, 8, 4, 2]
    torch.testing.assert_close(outs[3], neck.extra_convs[0](outs[2]))
    torch.testing.assert_close(outs[4], neck.extra_convs[1](F.relu(outs[3])))


def test_patch_stride_8_needs_one_upsampling_less():
    neck = SimpleFeaturePyramid(in_channels=24, out_channels=16, patch_stride=8)
    outs = neck((torch.randn(1, 24, 16, 16),))
    assert [out.shape[-1] for out in outs] == [32, 16, 8, 4, 2]


def test_uses_the_last_map_only():
    neck = SimpleFeaturePyramid(in_channels=8, out_channels=8)
    first, last = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4)
    for a, b in zip(neck((first, last)), neck((last,)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("extra_convs", [False, True])
def test_maps_are_contiguous_whatever_the_input_is(extra_convs):
    """RoIAlign would copy others, for boxes and for masks again."""
    neck = SimpleFeaturePyramid(in_channels=24, out_channels=16, extra_convs=extra_convs)
    x = torch.randn(2, 24, 6, 10)
    outs = neck((x,))
    others = neck((x.contiguous(memory_format=torch.channels_last),))  # as backbones give it
    for out, other in zip(outs, others, strict=True):
        assert out.is_contiguous() and other.is_contiguous()
        torch.testing.assert_close(other, out)


@pytest.mark.parametrize("extra_convs", [False, True])
def test_every_parameter_learns(extra_convs):
    neck = SimpleFeaturePyramid(in_channels=8, out_channels=8, extra_convs=extra_convs)
    sum(out.square().sum() for out in neck((torch.randn(1, 8, 4, 4),))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_outs=3), "num_outs=3 is less than the 4 strides"),
        (dict(strides=(4, 12)), "stride 12 is not a power of two apart from patch_stride=16"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        SimpleFeaturePyramid(in_channels=8, **options)
