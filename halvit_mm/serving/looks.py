"""What models said about pictures, kept while their visitors move the threshold."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..inference.results import Detections, Predictor, Result

_KEPT_BYTES = 256 * 2**20
_MOST_KEPT = 256  # the smallest pictures, too, take some room beside their pixels


@dataclass(frozen=True, eq=False)
class Look:
    """One run of a model.

    Attributes:
        image: (height, width, 3) uint8 in RGB.
        result: What the model says about it.
        seconds: How long it took, from the image in memory to the result.
    """

    image: np.ndarray
    result: Result
    seconds: float

    @property
    def bytes(self) -> int:
        """Memory that it takes; a hundred masks of a large image are many."""
        masks = self.result.masks if isinstance(self.result, Detections) else None
        return self.image.nbytes + (0 if masks is None else masks.nbytes)


class Looks:
    """Runs models, and remembers as many of the last results as fit.

    Args:
        predictors: The models by name.
        kept_bytes: Memory that results may take.
    """

    def __init__(
        self, predictors: Mapping[str, Predictor], *, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        self._predictors = predictors
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, str], Look] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, model: str, key: str, read: Callable[[], np.ndarray]) -> Look:
        """What ``model`` says about a picture.

        Args:
            model: Its name.
            key: Stands for the picture's content.
            read: Gives the picture, (height, width, 3) uint8 in RGB; called only where the result
                is not remembered.
        """
        with self._lock:  # models run one at a time, on all the cores there are
            if (model, key) in self._kept:
                self._kept.move_to_end((model, key))
                return self._kept[model, key]
            image = read()
            start = time.perf_counter()
            (result,) = self._predictors[model].predict([image])
            look = Look(image, result, time.perf_counter() - start)
            self._kept[model, key] = look
            while (
                len(self._kept) > _MOST_KEPT
                or sum(kept.bytes for kept in self._kept.values()) > self._kept_bytes
            ):
                self._kept.popitem(last=False)
            return look
