"""What a classifier confuses, as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Images with their true class and the one that a classifier takes them for.

    Attributes:
        truth: (N), numbers of the true classes.
        guess: (N), numbers of the predicted classes.
        confidence: (N), scores of the predicted classes, from 0 to 1.
        num_classes: How many classes there are.
    """

    truth: np.ndarray
    guess: np.ndarray
    confidence: np.ndarray
    num_classes: int

    @property
    def right(self) -> np.ndarray:
        """(N), whether an image is classified right."""
        return self.truth == self.guess

    def confusion(self) -> np.ndarray:
        """(classes, classes), numbers of images; a row for each true class."""
        cells = self.truth * self.num_classes + self.guess
        counts = np.bincount(cells, minlength=self.num_classes**2)
        return counts.reshape(self.num_classes, self.num_classes)

    def worst(self, num: int) -> np.ndarray:
        """The ``num`` images in whose wrong class there is most confidence, that one first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")[:num]]


@dataclass(frozen=True, kw_only=True)
class Confused:
    """Images of class ``truth`` that are taken for ``guess``: how many, and what part of all."""

    truth: int
    guess: int
    count: int
    share: float


def most_confused(confusion: np.ndarray, num: int) -> list[Confused]:
    """The ``num`` pairs of classes that most images confuse, that one first."""
    counts = confusion.copy()
    np.fill_diagonal(counts, 0)
    cells = np.argsort(-counts, axis=None, kind="stable")[:num]
    pairs = zip(*np.unravel_index(cells, counts.shape), strict=True)
    rows = confusion.sum(axis=1)
    return [
        Confused(truth=int(i), guess=int(j), count=int(counts[i, j]), share=counts[i, j] / rows[i])
        for i, j in pairs
        if counts[i, j]
    ]


def shares(confusion: np.ndarray) -> np.ndarray:
    """What part of a class's images is taken for each class; zeros where it has no images."""
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def is_classifier(samples: Sequence[dict[str, Any]]) -> bool:
    """Whether predictions are classes of whole images."""
    return "pred_score" in samples[0]


def read_classified(
    samples: Sequence[dict[str, Any]], path: str | Path, *, num_classes: int
) -> Classified:
    """Reads what mmengine's ``DumpResults`` wrote for a classifier of mmpretrain's.

    Args:
        samples: A dict for each image: ``pred_score`` (classes), ``pred_label`` (1) and
            ``gt_label`` (1).
        path: Where they come from, for messages.
        num_classes: Number of classes of the data set.

    Raises:
        UserError: Something is missing, or there is another number of classes.
    """
    for key in ("pred_score", "pred_label", "gt_label"):
        missing = sum(key not in sample for sample in samples)
        if missing:
            raise UserError(
                f"{path}: {missing} of the {len(samples)} predictions have no {key}; test a "
                "classifier with a data set whose images have labels"
            )
    lengths = {len(sample["pred_score"]) for sample in samples}
    if lengths != {num_classes}:
        raise UserError(
            f"{path}: the model has {' or '.join(map(str, sorted(lengths)))} classes, but the test "
            f"set has {num_classes}; give the config that was tested"
        )
    labels = [(np.ravel(s["gt_label"]), np.ravel(s["pred_label"])) for s in samples]
    if any(len(truth) != 1 or len(guess) != 1 for truth, guess in labels):
        raise UserError(
            f"{path}: an image has several classes or none; only classifiers into one class can be "
            "drawn"
        )
    truth, guess = np.array(labels)[..., 0].T
    if min(truth.min(), guess.min()) < 0 or max(truth.max(), guess.max()) >= num_classes:
        raise UserError(
            f"{path}: a label lies outside of the {num_classes} classes, numbered from 0; give the "
            "config that was tested"
        )
    confidence = [float(s["pred_score"][i]) for s, i in zip(samples, guess.tolist(), strict=True)]
    return Classified(
        truth=truth, guess=guess, confidence=np.array(confidence), num_classes=num_classes
    )
