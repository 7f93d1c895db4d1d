"""Images through a config's own test pipeline, without its data set."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.registry import DefaultScope

from ..analysis.sizes import image_size
from ..datasets.check import innermost_datasets
from ..datasets.check_classes import type_name
from ..errors import UserError

if TYPE_CHECKING:
    from .models import LoadedModel

_UNKNOWN = (0, 0)


def prepare(loaded: "LoadedModel", images: Sequence[np.ndarray]) -> dict[str, Any]:
    """Makes a batch for ``loaded.model.test_step``.

    Args:
        loaded: The model with its pipeline.
        images: Each (height, width, 3) uint8 in RGB. A classifier's must come out of its pipeline
            in one size.

    Returns:
        ``inputs`` and ``data_samples``, as mmengine's loaders collate them.

    Raises:
        UserError: See :func:`prepare_one`.
    """
    return collate(loaded, [prepare_one(loaded, image) for image in images])


def prepare_one(loaded: "LoadedModel", image: np.ndarray) -> dict[str, Any]:
    """What the test pipeline makes of one image, before it is collated.

    Raises:
        UserError: The pipeline cannot process an image of this size.
    """
    import cv2

    height, width = image.shape[:2]
    # Blue first, as mmcv's loaders give images, with what these note beside them.
    sample = dict(
        img=np.ascontiguousarray(image[..., ::-1]),
        img_path="",
        img_id=0,
        sample_idx=0,
        img_shape=(height, width),
        ori_shape=(height, width),
    )
    try:
        return loaded.pipeline(sample)
    except (cv2.error, MemoryError) as error:
        raise UserError(
            f"an image of {width} × {height} pixels does not go through the test pipeline of this "
            "model, which makes a side 0 pixels short or far too long; cut it into pieces"
        ) from error


def collate(loaded: "LoadedModel", samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of what :func:`prepare_one` gave."""
    if loaded.task == "classification":
        return default_collate(samples)
    return pseudo_collate(samples)


def build_pipeline(cfg: Config, *, task: str) -> Compose:
    """The transforms of the test set for images that are in memory already.

    Loading is left out. Sets whose images have one size already, such as CIFAR-10, need no
    resizing, but other images do: where a classifier's pipeline has none, images are resized to
    the size of its training images, by the short side and the middle of the long one.

    Raises:
        UserError: There is no test pipeline, or one that needs more than images.
    """
    steps = []
    for step in _test_steps(cfg):
        kind = type_name(step)
        if kind.startswith("LoadImage"):
            if str(step.get("color_type", "color")).startswith(("gray", "unchanged")):
                raise UserError(
                    f"the test pipeline of {cfg.filename} loads images as {step['color_type']}; "
                    "only models of colour images can be run on files"
                )
            if step.get("to_float32"):
                steps.append(_to_float32)
        elif not kind.startswith("Load"):
            steps.append(dict(step))
    if task == "classification" and not any(_resizes(step) for step in steps):
        steps = [*_resizing(cfg), *steps]
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        return Compose(steps)


def _test_steps(cfg: Config) -> Sequence[Mapping]:
    for loader in ("test_dataloader", "val_dataloader"):
        if dataset := (cfg.get(loader) or {}).get("dataset"):
            inner, _ = next(innermost_datasets(dataset, loader))
            if inner.get("pipeline"):
                return inner["pipeline"]
    raise UserError(
        f"the config {cfg.filename} has no test_dataloader with a pipeline, which would prepare "
        "the images; name the config that the model was trained with"
    )


def _to_float32(sample: dict[str, Any]) -> dict[str, Any]:
    return sample | dict(img=sample["img"].astype(np.float32))


def _resizes(step: Any) -> bool:
    return isinstance(step, Mapping) and any(w in type_name(step) for w in ("Resize", "Crop"))


def _resizing(cfg: Config) -> list[dict]:
    side = cfg.model.backbone.get("img_size")
    height, width = image_size(cfg, (side, side) if isinstance(side, int) else side or _UNKNOWN)
    if (height, width) == _UNKNOWN:
        return []
    if height != width:
        return [dict(type="Resize", scale=(width, height), backend="pillow")]
    # Pillow averages where images become smaller; an image of this size stays as it is.
    edge = dict(type="ResizeEdge", scale=height, edge="short", backend="pillow")
    return [dict(edge, interpolation="bicubic"), dict(type="CenterCrop", crop_size=height)]
