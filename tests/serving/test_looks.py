"""What is remembered of models' runs."""

import numpy as np
import pytest

from halvit_mm.inference.results import Classification, Detections
from halvit_mm.serving.looks import Looks

IMAGE = np.zeros((10, 10, 3), np.uint8)


class Counting:
    """A stand-in for a model, which takes no time: it counts its runs."""

    classes = ("a", "b")

    def __init__(self, *, masks: int | None = None) -> None:
        self.runs = 0
        self.masks = masks

    def predict(self, images):
        self.runs += 1
        size = images[0].shape[:2]
        if self.masks is None:
            return [Classification(np.array([0.25, 0.75], np.float32), size, self.classes)]
        n = self.masks
        return [
            Detections(
                boxes=np.zeros((n, 4), np.float32),
                scores=np.ones(n, np.float32),
                labels=np.zeros(n, np.int64),
                masks=np.zeros((n, *size), bool),
                size=size,
                classes=self.classes,
            )
        ]


def test_a_picture_is_looked_at_once_by_each_model():
    models = {"one": Counting(), "other": Counting()}
    looks = Looks(models)
    first = looks.look("one", "picture", lambda: IMAGE)
    assert first.result.top(1) == [("b", 0.75)]
    assert first.seconds > 0
    assert looks.look("one", "picture", lambda: pytest.fail("read again")) is first
    assert looks.look("other", "picture", lambda: IMAGE) is not first
    assert looks.look("one", "another picture", lambda: IMAGE) is not first
    assert (models["one"].runs, models["other"].runs) == (2, 1)


def test_what_was_not_asked_for_longest_is_forgotten():
    model = Counting(masks=2)
    looks = Looks({"m": model}, kept_bytes=1100)  # two looks of 300 + 200 bytes
    for key in ("a", "b", "a", "c"):
        looks.look("m", key, lambda: IMAGE)
    assert model.runs == 3
    looks.look("m", "a", lambda: IMAGE)
    assert model.runs == 3
    looks.look("m", "b", lambda: IMAGE)
    assert model.runs == 4


def test_what_is_too_large_is_not_kept():
    model = Counting(masks=100)
    looks = Looks({"m": model}, kept_bytes=5000)
    assert len(looks.look("m", "a", lambda: IMAGE).result) == 100
    looks.look("m", "a", lambda: IMAGE)
    assert model.runs == 2


def test_a_picture_that_cannot_be_read_leaves_nothing_behind():
    model = Counting()
    looks = Looks({"m": model})

    def gone():
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        looks.look("m", "a", gone)
    looks.look("m", "a", lambda: IMAGE)
    assert model.runs == 1
