"""Images on which a half-weight model is compared with its dense one, as testing would see them."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import Tensor

from ..datasets.check import check_dataset, innermost_datasets
from ..datasets.check_classes import type_name
from ..datasets.check_images import find_bad_images
from ..datasets.image_folders import EXTENSIONS, list_images
from ..engine.config_errors import config_errors
from ..errors import UserError

_CURE = "give images by --calib FOLDER"
_NAMED = 3  # unreadable files in an error
_LOOKED_AT = 20_000  # images of a larger folder are looked at only where they are chosen


def calibration_images(
    cfg: Config,
    *,
    folder: str | Path | None,
    count: int,
    img_size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> Tensor:
    """Images that go through the test pipeline and the data preprocessor of a config.

    They are chosen evenly over the folder or the data set, at random within each of ``count`` equal
    parts, and come in random order, as images of one class often lie together. Where there are
    fewer all are taken, and a warning is logged. Only chosen images are decoded, one at a time.

    Args:
        cfg: A config of mmpretrain or mmdet; it is not changed.
        folder: Images at any depth of it; None takes the config's training set.
        count: How many images.
        img_size: Side of squares, or (height, width), in pixels, that images are resized to after
            the pipeline; what the preprocessor pads to whole multiples comes on top.
        seed: Of the choice and the order.

    Returns:
        (count, 3, height, width), float32, normalised.

    Raises:
        UserError: There are no images, some cannot be read, or they come out in several sizes; or
            the config cannot prepare them; or ``count`` or ``img_size`` is below 1.
    """
    if count < 1:
        raise UserError(f"--images {count}: at least one image is needed; give a number above 0")
    size = (img_size, img_size) if isinstance(img_size, int) else img_size and tuple(img_size)
    if size is not None and min(size) < 1:
        raise UserError(f"--img-size {img_size}: give a number of pixels above 0")
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")), config_errors(cfg):
        pipeline = _test_pipeline(cfg)
        source = _open_set(cfg, pipeline) if folder is None else _open_folder(folder, pipeline)
        chosen = choose(len(source), count, seed)
        if len(chosen) < count:
            print_log(
                f"calibration: {source.title} has {len(source)} images, fewer than the {count} "
                "wanted; all are used",
                "current",
                logging.WARNING,
            )
        source.check(chosen)
        return _read_all(source, chosen, size, _preprocessor(cfg))


def choose(available: int, count: int, seed: int) -> list[int]:
    """Numbers below ``available``, one of each of ``count`` equal parts, in random order."""
    rng = np.random.default_rng(seed)
    count = min(count, available)
    bounds = np.arange(count + 1) * available // count
    return rng.permutation(rng.integers(bounds[:-1], bounds[1:])).tolist()


class _Folder:
    """Image files, which the pipeline loads."""

    def __init__(self, folder: Path, pipeline: Sequence[Mapping]) -> None:
        self.title = str(folder)
        self._files = list_images(folder)
        self._pipeline = Compose([dict(step) for step in pipeline])

    def __len__(self) -> int:
        return len(self._files)

    def check(self, chosen: Sequence[int]) -> None:
        """Refuses the folder where images in it cannot be read."""
        numbers = range(len(self)) if len(self) <= _LOOKED_AT else sorted(chosen)
        found = find_bad_images([Path(self._files[number]) for number in numbers])
        faults = dict.fromkeys(found.missing, "it is not there") | found.broken
        if faults:
            raise _unreadable({str(path): fault for path, fault in faults.items()}, self.title)

    def read(self, number: int) -> Tensor:
        """What the pipeline makes of an image: (3, height, width), not yet normalised."""
        path = self._files[number]
        try:
            return self._pipeline(dict(img_path=path, img_id=number))["inputs"]
        except Exception as error:
            # What looks whole at both ends may not be; OpenCV gives no image then.
            import cv2

            if cv2.imread(path) is None:
                raise _unreadable({path: "it cannot be decoded"}, self.title) from error
            raise


class _Sets:
    """Data sets of a config, one after the other."""

    def __init__(self, sets: Sequence) -> None:
        self.title = "the config's training set"
        self._sets = sets
        self._starts = np.cumsum([0, *map(len, sets)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def check(self, chosen: Sequence[int]) -> None:
        """Nothing is left to check: opening them looked at their images."""

    def read(self, number: int) -> Tensor:
        """What the pipeline makes of an image: (3, height, width), not yet normalised."""
        which = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._sets[which][number - int(self._starts[which])]["inputs"]


def _open_folder(folder: str | Path, pipeline: Sequence[Mapping]) -> _Folder:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"--calib {folder}: this {problem}; name a folder of images")
    # Sets of this project come decoded, so that their pipelines load nothing.
    if not any(type_name(step).startswith("LoadImage") for step in pipeline):
        pipeline = [dict(type="LoadImageFromFile"), *pipeline]
    source = _Folder(folder, pipeline)
    if not len(source):
        raise UserError(
            f"--calib {folder}: there is no image ({', '.join(EXTENSIONS)}) in this folder; name "
            "one with images"
        )
    return source


def _open_set(cfg: Config, pipeline: Sequence[Mapping]) -> _Sets:
    option = "train_dataloader.dataset"
    dataset = (cfg.get("train_dataloader") or {}).get("dataset")
    if dataset is None:
        raise UserError(f"the config {cfg.filename} has no {option}: {_CURE}")
    try:
        check_dataset(dataset, option=option)
    except UserError as error:
        first, *more = str(error).split("\n")
        raise UserError("\n".join([f"{first}; or {_CURE}", *more])) from error
    configs = [deepcopy(inner) for inner, _ in innermost_datasets(dataset, option)]
    for inner in configs:
        inner["pipeline"] = deepcopy(pipeline)
    source = _Sets([DATASETS.build(inner) for inner in configs])
    if not len(source):
        raise UserError(f"{option} has no images: correct it, or {_CURE}")
    return source


def _test_pipeline(cfg: Config) -> list[Mapping]:
    """What testing does to an image, without loading annotations, which folders do not have."""
    for loader in ("test_dataloader", "val_dataloader"):
        if dataset := (cfg.get(loader) or {}).get("dataset"):
            inner, _ = next(innermost_datasets(dataset, loader))
            steps = inner.get("pipeline") or []
            return [step for step in steps if "Annotations" not in type_name(step)]
    raise UserError(
        f"the config {cfg.filename} has no test_dataloader, whose pipeline would prepare the "
        "images; name a config that has one"
    )


def _preprocessor(cfg: Config) -> torch.nn.Module:
    """As the runner and the model make it: the model's own one, or the config's."""
    described = cfg.model.get("data_preprocessor", cfg.get("data_preprocessor")) or {}
    return MODELS.build({"type": "mmpretrain.ClsDataPreprocessor", **described})


def _read_all(
    source: _Folder | _Sets,
    chosen: Sequence[int],
    size: tuple[int, int] | None,
    preprocessor: torch.nn.Module,
) -> Tensor:
    images = None
    for place, number in enumerate(chosen):
        image = source.read(number)
        if size is not None and tuple(image.shape[1:]) != size:
            image = _resize(image, size)
        # By itself, so that no other image decides on how it is padded.
        image = preprocessor(dict(inputs=[image]))["inputs"][0]
        if images is None:
            images = torch.empty(len(chosen), *image.shape)
        if image.shape != images.shape[1:]:
            one, other = ("{1} × {2}".format(*shape) for shape in (images.shape[1:], image.shape))
            raise UserError(
                f"the images of {source.title} come out of the test pipeline in several sizes "
                f"({one} and {other} pixels): give the one to resize them to by --img-size"
            )
        images[place] = image
    return images


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return resized.round().clamp(0, 255).to(image.dtype) if image.dtype == torch.uint8 else resized


def _unreadable(faults: Mapping[str, str], folder: str) -> UserError:
    named = [f"{path} ({fault})" for path, fault in list(faults.items())[:_NAMED]]
    more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return UserError(
        f"--calib {folder}: images in it cannot be read: {', '.join(named)}{more}; replace or "
        "remove them"
    )
