"""Masks of boxes pasted by NumPy are those that mmdet pastes by PyTorch."""

import numpy as np
import pytest
import torch

from halvit_mm.deploy.mask_pasting import paste_masks

SIZE = (120, 160)


def mmdet_paste(masks: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    pasted = np.zeros((len(masks), *SIZE), dtype=bool)
    for image, mask, box in zip(
        pasted, torch.from_numpy(masks), torch.from_numpy(boxes), strict=True
    ):
        values, place = _do_paste_mask(mask[None, None], box[None], *SIZE)
        image[place] = (values >= threshold)[0].numpy()
    return pasted


def blobs(count: int, cells: tuple[int, int] = (28, 28)) -> np.ndarray:
    """Smooth masks between 0 and 1."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(0, 3, (count, 1, 5, 5)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, cells, mode="bicubic")
    return smooth[:, 0].sigmoid().numpy()


def random_boxes(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    corners = rng.uniform(-5, 150, (count, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(0.3, 120, (count, 2))), axis=1)
    limits = [SIZE[1], SIZE[0]] * 2
    return boxes.clip(0, limits).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_pastes_as_mmdet_does(threshold):
    masks, boxes = blobs(200), random_boxes(200)
    got, expected = paste_masks(masks, boxes, SIZE, threshold), mmdet_paste(masks, boxes, threshold)
    assert got.dtype == bool
    assert got.shape == (200, *SIZE)
    wrong = (got != expected).sum(axis=(1, 2))
    assert wrong.max() <= 1  # where a value is the threshold but for rounding
    assert wrong.sum() <= 2
    assert expected.sum() > 100_000


def test_masks_need_not_be_square():
    masks, boxes = blobs(50, (14, 20)), random_boxes(50)
    wrong = paste_masks(masks, boxes, SIZE) != mmdet_paste(masks, boxes, 0.5)
    assert wrong.sum() <= 2


@pytest.mark.parametrize(
    "box",
    [
        (-30.0, -20.0, 40.5, 50.25),
        (100.3, 90.1, 190.0, 140.0),
        (20.2, 30.4, 20.9, 30.6),
        (0.0, 0.0, 160.0, 120.0),
        (50.0, 50.0, 50.0, 70.0),
        (200.0, 10.0, 220.0, 30.0),
    ],
    ids=["top left", "bottom right", "less than a pixel", "whole image", "no width", "outside"],
)
def test_unusual_boxes(box):
    masks, boxes = blobs(1), np.array([box], dtype=np.float32)
    if box[0] < SIZE[1]:
        np.testing.assert_array_equal(
            paste_masks(masks, boxes, SIZE), mmdet_paste(masks, boxes, 0.5)
        )
    else:
        assert not paste_masks(masks, boxes, SIZE).any()


def test_a_full_mask_fills_its_box():
    pasted = paste_masks(
        np.ones((1, 28, 28), np.float32), np.array([[10.0, 20.0, 50.0, 44.0]]), SIZE
    )
    expected = np.zeros(SIZE, dtype=bool)
    expected[20:44, 10:50] = True
    np.testing.assert_array_equal(pasted[0], expected)


def test_nothing_to_paste():
    pasted = paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), SIZE)
    assert pasted.shape == (0, *SIZE)
