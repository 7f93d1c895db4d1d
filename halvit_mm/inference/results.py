"""What models say about an image, whichever way they run: in PyTorch or in onnxruntime."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, best first.

    Attributes:
        boxes: (N, 4) float32, corners x1, y1, x2, y2 in pixels of the image as it is looked at,
            that is, turned as its EXIF data say.
        scores: (N,) float32 from 0 to 1.
        labels: (N,) int64, indices of ``classes``.
        masks: (N, height, width) bool, or None of a detector without masks.
        size: Height and width of the image in pixels.
        classes: The names of all classes of the model.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    size: tuple[int, int]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> "Detections":
        """Those whose score is at least ``threshold``."""
        keep = self.scores >= threshold
        return replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
            masks=None if self.masks is None else self.masks[keep],
        )


@dataclass(frozen=True, eq=False)
class Classification:
    """What a classifier takes an image for.

    Attributes:
        scores: (C,) float32 probabilities.
        size: Height and width of the image in pixels.
        classes: The names of all classes of the model; their numbers where it has no names.
    """

    scores: np.ndarray
    size: tuple[int, int]
    classes: tuple[str, ...]

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The ``k`` likeliest classes and their probabilities, best first."""
        best = np.argsort(-self.scores, kind="stable")[:k]
        return [(self.classes[i], float(self.scores[i])) for i in best]


Result = Detections | Classification


class Predictor(Protocol):
    """What :class:`Detector`, :class:`Classifier` and ``deploy.OnnxModel`` have in common.

    Attributes:
        classes: The names of all classes of the model.
    """

    classes: tuple[str, ...]

    def predict(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Runs the model on a batch of images, each (height, width, 3) uint8 in RGB."""
        ...
