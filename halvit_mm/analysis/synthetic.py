"""A batch of training for which no data set is needed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate

from ..datasets.check import count_classes
from ..errors import UserError

#: (height, width) of the images before the pipeline, a usual size in ImageNet.
SIZE = (375, 500)


def synthetic_batch(cfg: Config) -> dict[str, Any]:
    """A batch of noise with random labels for a classifier.

    The images go through the config's training pipeline, which gives them the size that they have
    in training. Call it within the config's default scope.

    Args:
        cfg: A config of mmpretrain; of its training data only pipeline and batch size count.

    Returns:
        What a loader of the training data would give.

    Raises:
        UserError: The config is not one of a classifier with one pipeline for its training data.
    """
    dataset = cfg.train_dataloader.dataset
    while isinstance(dataset.get("dataset"), Mapping):  # wrappers, such as one that repeats
        dataset = dataset.dataset
    classes = min(count_classes(cfg.model).values(), default=0)
    if cfg.get("default_scope") != "mmpretrain" or "pipeline" not in dataset or not classes:
        raise UserError(
            f"{cfg.filename}: synthetic images are for classifiers of mmpretrain with one training "
            "set; leave out --synthetic"
        )
    pipeline = Compose([t for t in dataset.pipeline if "LoadImage" not in str(t["type"])])
    rng = np.random.default_rng(0)
    count = cfg.train_dataloader.batch_size
    return pseudo_collate([pipeline(_noise(rng, classes)) for _ in range(count)])


def _noise(rng: np.random.Generator, classes: int) -> dict[str, Any]:
    pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return dict(img=pixels, img_shape=SIZE, ori_shape=SIZE, gt_label=int(rng.integers(classes)))
