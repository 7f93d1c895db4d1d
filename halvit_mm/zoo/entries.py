"""The models of the zoo: those that a CPU trains in minutes or an hour."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that is trained.

    Attributes:
        config: Its config, from the repository's root.
        dataset: What it is trained and tested on, for people.
        metrics: What is told of it: the task, the metric's usual name, and its name in logs.
    """

    config: str
    dataset: str
    metrics: tuple[tuple[str, str, str], ...]

    @property
    def name(self) -> str:
        """The config's, without folder and suffix."""
        return Path(self.config).stem


_MASKS = (
    ("Object Detection", "box AP", "coco/bbox_mAP"),
    ("Instance Segmentation", "mask AP", "coco/segm_mAP"),
)
_CLASSES = (("Image Classification", "Top 1 Accuracy", "accuracy/top1"),)
_CIFAR10 = "CIFAR-10 (re-encoded as JPEG)"

#: By name.
ENTRIES: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            config="configs/nuclei/mask_rcnn_halvit_small_nuclei.py",
            dataset="nuclei of the 2018 Data Science Bowl",
            metrics=_MASKS,
        ),
        Entry(
            config="configs/digits/mask_rcnn_halvit_digits.py",
            dataset="scattered handwritten digits (the demo's)",
            metrics=_MASKS,
        ),
        Entry(config="configs/cifar10/small_halvit_cifar10.py", dataset=_CIFAR10, metrics=_CLASSES),
        Entry(
            config="configs/cifar10/small_half_resnet50_cifar10.py",
            dataset=_CIFAR10,
            metrics=_CLASSES,
        ),
        Entry(
            config="configs/cifar10/small_mini_swin_cifar10.py", dataset=_CIFAR10, metrics=_CLASSES
        ),
    )
}
