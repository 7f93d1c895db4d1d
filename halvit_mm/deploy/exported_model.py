"""What exported models have in common, whatever runs them. Needs neither torch nor OpenMMLab."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..inference.images import check_pixels, read_image
from ..inference.results import Classification, Detections, Result
from .preprocessing import Step, apply, from_data

#: Where a file keeps what is to be known about its model.
METADATA = "halvit_mm"

TASKS = ("detection", "classification", "features")
_UNREADABLE = "what the file says about its model cannot be read; export it again"


class ExportedModel(ABC):
    """A detector, classifier or backbone from a file that this project wrote.

    Args:
        path: The file.
        about: What it says about the model, as the exporters write it.
        outputs: The names of the program's outputs.
        input_shape: Batch, channels, height and width; a string where any number will do.
        score_threshold: Detections of lower scores are left out.

    Attributes:
        task: ``"detection"``, ``"classification"`` or ``"features"``.
        classes: The names of all classes of the model; none of a backbone.
        precision: What the weights are stored in.
        steps: What is done to an image before it goes into the program.
        input_shape: As given.
    """

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        *,
        outputs: Sequence[str],
        input_shape: Sequence[int | str],
        score_threshold: float = 0.0,
    ) -> None:
        self.path = path
        self.score_threshold = score_threshold
        try:
            self.task: str = about["task"]
            self.classes: tuple[str, ...] = tuple(about["classes"])
            self.precision: str = about["precision"]
            self.steps: tuple[Step, ...] = from_data(about["preprocessing"])
            self.input_shape = tuple(input_shape)
            self._output_names = tuple(outputs)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {_UNREADABLE}") from error
        if self.task not in TASKS or len(self.input_shape) != 4 or not self._output_names:
            raise UserError(f"{path}: {_UNREADABLE}")

    @abstractmethod
    def _run(self, pixels: np.ndarray) -> Sequence[np.ndarray]:
        """The program's outputs for images of a shape that fits."""

    def __call__(self, source: Any) -> Any:
        """The result of an image, a file or an array (height, width, 3) uint8 in RGB; or a list of
        results for a sequence of these.

        Raises:
            UserError: An image cannot be read or processed.
        """
        if isinstance(source, str | Path | np.ndarray):
            return self([source])[0]
        images = (check_pixels(s) if isinstance(s, np.ndarray) else read_image(s) for s in source)
        return [result for image in images for result in self.predict([image])]

    def predict(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Runs the model on images, each (height, width, 3) uint8 in RGB.

        Raises:
            UserError: This is a backbone, or an image cannot be processed.
        """
        if self.task == "features":
            raise UserError(f"{self.path}: this is a backbone without a head; call features()")
        inputs = [apply(self.steps, image) for image in images]
        if self.task == "classification":
            logits = np.concatenate([out["logits"] for out in self._run_in_batches(inputs)])
            return [
                Classification(scores=_softmax(row), size=image.shape[:2], classes=self.classes)
                for row, image in zip(logits, images, strict=True)
            ]
        return [
            self._detections(self.run(pixels[None]), pixels.shape[1:], image.shape[:2])
            for pixels, image in zip(inputs, images, strict=True)
        ]

    def features(self, image: np.ndarray) -> list[np.ndarray]:
        """The outputs for one image (height, width, 3) uint8 in RGB, as the program gives them."""
        return list(self.run(apply(self.steps, image)[None]).values())

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The program's outputs by name.

        Args:
            pixels: (B, 3, H, W) float32, RGB from 0 to 255, resized already.

        Raises:
            UserError: The program is for images of another size.
        """
        for wanted, given in zip(self.input_shape, pixels.shape, strict=True):
            if isinstance(wanted, int) and wanted != given:
                raise UserError(
                    f"{self.path}: the model is for batches of {_times(self.input_shape)}, not "
                    f"{_times(pixels.shape)}; resize the images, or export with --any-size"
                )
        return dict(zip(self._output_names, self._run(pixels), strict=True))

    def _run_in_batches(self, inputs: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """All at once, where the program and the images' sizes allow it."""
        together = not isinstance(self.input_shape[0], int) and len({x.shape for x in inputs}) == 1
        return [self.run(np.stack(inputs))] if together else [self.run(x[None]) for x in inputs]

    def _detections(
        self, found: dict[str, np.ndarray], resized: tuple[int, int], size: tuple[int, int]
    ) -> Detections:
        ratios = np.array([resized[1] / size[1], resized[0] / size[0]] * 2, np.float32)
        keep = found["scores"] >= self.score_threshold  # before there are masks of the image's size
        boxes, masks = found["boxes"][keep] / ratios, found.get("masks")
        if masks is not None:
            from .mask_pasting import paste_masks

            masks = paste_masks(masks[keep], boxes, size)
        return Detections(
            boxes=boxes,
            scores=found["scores"][keep],
            labels=found["labels"][keep],
            masks=masks,
            size=size,
            classes=self.classes,
        )


def read_about(path: Path, text: str) -> dict[str, Any]:
    """What a file says about its model.

    Raises:
        UserError: It is not as an exporter writes it.
    """
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {_UNREADABLE}") from error
    if not isinstance(about, dict):
        raise UserError(f"{path}: {_UNREADABLE}")
    return about


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max())
    return exp / exp.sum()


def _times(shape: Sequence[int | str]) -> str:
    return " × ".join(map(str, shape))
