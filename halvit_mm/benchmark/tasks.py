"""What the measured models work on: synthetic batches, the same for all models of a comparison."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Instances in an image for detectors; COCO has 7 on average.
INSTANCES = 7
_SEED = 0


class Task(Protocol):
    """Work for a model."""

    def prepare(self, model: nn.Module) -> None:
        """Makes the batch ready for the model, once."""

    def loss(self, model: nn.Module) -> Tensor:
        """What training minimises: one number."""

    def predict(self, model: nn.Module) -> Any:
        """What the model finds in the batch."""

    def forward(self, model: nn.Module) -> Any:
        """The same without post-processing, whose work depends on what is found."""


class Classification:
    """Noise images with random labels.

    Args:
        batch: Number of images.
        size: Their height and width in pixels.
        classes: Number of classes.
        device: Where the images are.
        channels_last: Give the images this memory format.
    """

    def __init__(
        self,
        *,
        batch: int,
        size: tuple[int, int],
        classes: int,
        device: str = "cpu",
        channels_last: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(_SEED)
        images = torch.randn(batch, 3, *size, generator=generator)
        labels = torch.randint(classes, (batch,), generator=generator)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._images = images.to(device, memory_format=layout)
        self._labels = labels.to(device)

    def prepare(self, model: nn.Module) -> None:
        """Nothing: the images are ready for any model."""

    def loss(self, model: nn.Module) -> Tensor:
        """Cross-entropy of the logits: one number."""
        return F.cross_entropy(model(self._images), self._labels)

    def predict(self, model: nn.Module) -> Tensor:
        """The logits (batch, classes)."""
        return model(self._images)

    forward = predict


class Detection:
    """Noise images with boxes and masks of ellipses, for a detector of mmdet.

    Args:
        batch: Number of images.
        size: Their height and width in pixels before padding.
        classes: Number of classes.
        device: Where the images are.
        channels_last: Give the images this memory format.
    """

    def __init__(
        self,
        *,
        batch: int,
        size: tuple[int, int],
        classes: int,
        device: str = "cpu",
        channels_last: bool = False,
    ) -> None:
        self._batch = _detection_batch(batch, size, classes)
        self._channels_last = channels_last
        self._data: dict[str, Any] = {}

    def prepare(self, model: nn.Module) -> None:
        """Normalises and pads the images as the model wants them, on the model's device."""
        self._data = model.data_preprocessor(self._batch, True)
        if self._channels_last:
            self._data["inputs"] = self._data["inputs"].to(memory_format=torch.channels_last)

    def loss(self, model: nn.Module) -> Tensor:
        """The sum of the detector's losses: one number."""
        # Not by parse_losses, which also collects all of them as numbers for the log.
        losses = model(**self._data, mode="loss")
        values = [value for name, value in losses.items() if "loss" in name]
        return sum(v.mean() for value in values for v in _as_list(value))

    def predict(self, model: nn.Module) -> list:
        """The detections of each image."""
        return model(**self._data, mode="predict")

    def forward(self, model: nn.Module) -> tuple:
        """Raw outputs: 1000 boxes of an image are classified, a hundred of them get masks."""
        return model(**self._data, mode="tensor")


def _as_list(value: Tensor | list[Tensor]) -> list[Tensor]:
    return value if isinstance(value, list) else [value]


TASKS = {"classification": Classification, "detection": Detection}


def _detection_batch(batch: int, size: tuple[int, int], classes: int) -> dict[str, list]:
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    rng = np.random.default_rng(_SEED)
    height, width = size
    y, x = np.ogrid[:height, :width]
    images, samples = [], []
    for _ in range(batch):
        pixels = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        images.append(torch.from_numpy(pixels))
        # From a twentieth of the image's side to half of it, as objects of COCO mostly are.
        half_w = rng.uniform(0.025, 0.25, INSTANCES) * width
        half_h = rng.uniform(0.025, 0.25, INSTANCES) * height
        cx = rng.uniform(half_w, width - half_w)
        cy = rng.uniform(half_h, height - half_h)
        masks = [
            ((x - u) / a) ** 2 + ((y - v) / b) ** 2 <= 1
            for u, v, a, b in zip(cx, cy, half_w, half_h, strict=True)
        ]
        boxes = np.stack([cx - half_w, cy - half_h, cx + half_w, cy + half_h], axis=1)
        sample = DetDataSample(
            metainfo=dict(
                img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0)
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(rng.integers(classes, size=INSTANCES)),
            masks=BitmapMasks(np.stack(masks).astype(np.uint8), height, width),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return {"inputs": images, "data_samples": samples}
