"""The size of a config's images."""

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config

Size = tuple[int, int]

#: Sizes where neither the user nor the config says one: ImageNet's and COCO's usual ones.
CLASSIFIER_SIZE = (224, 224)
DETECTOR_SIZE = (800, 1333)


def image_size(cfg: Config, default: Size) -> Size:
    """Height and width of the images that a config's model is tested on, before padding.

    That is what the last resizing or cropping of the test pipeline makes, or else of the training
    pipeline, or else ``default``. Where the aspect ratio is kept, it is the largest possible size.
    """
    for loader in ("test_dataloader", "train_dataloader"):
        for transform in reversed(_pipeline(cfg.get(loader) or {})):
            if (size := _output_size(transform)) is not None:
                return size
    return default


def padded(size: Size, divisor: int) -> Size:
    """The next size of which both sides are multiples of ``divisor``."""
    return (-(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor)


def _pipeline(loader: dict) -> list[dict]:
    dataset = loader.get("dataset") or {}
    while isinstance(dataset.get("dataset"), dict):  # wrappers: RepeatDataset and the like
        dataset = dataset["dataset"]
    return [step for step in dataset.get("pipeline") or [] if isinstance(step, dict)]


def _output_size(transform: dict) -> Size | None:
    """The size that a transform's output has, if its options tell."""
    kind = transform.get("type")
    kind = getattr(kind, "__name__", kind)  # a class, in mmengine's pure Python configs
    if kind in ("CenterCrop", "EfficientNetCenterCrop", "RandomCrop"):
        return _pair(transform.get("crop_size"))
    if kind in ("Resize", "RandomResizedCrop"):
        size = _pair(transform.get("scale"))
        return size and size[::-1]  # width and height, in mmcv
    return None


def _pair(value: Any) -> Size | None:
    sides = (value, value) if isinstance(value, int) else value
    if isinstance(sides, Sequence) and len(sides) == 2 and all(type(s) is int for s in sides):
        return tuple(sides)
    return None
