"""Images go into a graph as the config's own test pipeline would have them."""

import json

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from halvit_mm.deploy.preprocessing import apply, as_data, from_data, steps_of
from halvit_mm.errors import UserError

CLASSIFIER = {
    "short edge": [
        dict(type="ResizeEdge", scale=48, edge="short", backend="pillow", interpolation="bicubic"),
        dict(type="CenterCrop", crop_size=40),
    ],
    "long edge": [dict(type="ResizeEdge", scale=50, edge="long", interpolation="bicubic")],
    "width": [dict(type="ResizeEdge", scale=33, edge="width", interpolation="area")],
    "height": [dict(type="ResizeEdge", scale=33, edge="height", backend="pillow")],
    "squeezed": [dict(type="Resize", scale=(40, 30), interpolation="nearest")],
    "crop": [dict(type="CenterCrop", crop_size=(31, 40))],
}
DETECTOR = {
    "into a size": [dict(type="Resize", scale=(133, 80), keep_ratio=True)],
    "to a size": [dict(type="Resize", scale=(64, 48), keep_ratio=False)],
    "as it is": [dict(type="Resize", scale_factor=1.0)],
}
SIZES = [(37, 61), (61, 37), (50, 50), (97, 33), (20, 30), (200, 47), (41, 40)]


def built(scope: str, pipeline: list[dict]) -> Compose:
    pack = "PackDetInputs" if scope == "mmdet" else "PackInputs"
    with DefaultScope.overwrite_default_scope(scope):
        return Compose([*pipeline, dict(type=pack)])


def sample(image: np.ndarray) -> dict:
    size = image.shape[:2]
    extra = dict(img_path="", img_id=0, sample_idx=0, img_shape=size, ori_shape=size)
    return dict(img=np.ascontiguousarray(image[..., ::-1]), **extra)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("scope", "name"),
    [*(("mmpretrain", n) for n in CLASSIFIER), *(("mmdet", n) for n in DETECTOR)],
)
def test_pixels_are_those_of_the_pipeline(scope: str, name: str, size: tuple[int, int]) -> None:
    pipeline = (CLASSIFIER if scope == "mmpretrain" else DETECTOR)[name]
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    transforms = built(scope, pipeline)
    expected = transforms(sample(image))["inputs"].numpy()[::-1]
    steps = from_data(json.loads(json.dumps(as_data(steps_of(transforms.transforms)))))
    got = apply(steps, image)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "transform",
    [
        dict(type="Pad", size_divisor=32),
        dict(type="CenterCrop", crop_size=30, auto_pad=True),
        dict(type="Resize", scale_factor=0.5),
    ],
)
def test_what_cannot_be_done_is_refused(transform: dict) -> None:
    transforms = built("mmdet" if transform["type"] == "Pad" else "mmpretrain", [transform])
    with pytest.raises(UserError, match=f"the test pipeline's {transform['type']}"):
        steps_of(transforms.transforms)


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1)])
def test_a_side_that_would_vanish(size: tuple[int, int]) -> None:
    steps = steps_of(built("mmdet", DETECTOR["into a size"]).transforms)
    with pytest.raises(UserError, match=f"{size[0]} × {size[1]} pixels is too narrow"):
        apply(steps, np.zeros((*size, 3), np.uint8))


def test_a_single_pixel_is_an_image() -> None:
    steps = steps_of(built("mmdet", DETECTOR["into a size"]).transforms)
    assert apply(steps, np.full((1, 1, 3), 7, np.uint8)).shape == (3, 80, 80)
