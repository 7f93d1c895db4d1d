"""Detectors and classifiers at work on images, in PyTorch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from ..errors import UserError
from .images import check_pixels, read_image
from .models import Task, load_model
from .pipeline import collate, prepare, prepare_one
from .results import Classification, Detections, Predictor, Result

Source = str | Path | np.ndarray

#: By so much less than the threshold a model's own one is, so that rounding drops nothing.
_SLACK = 1e-4


class TorchPredictor(ABC):
    """A model that is called with images: what detectors and classifiers share.

    Args:
        config: A config file, or a config that was read.
        checkpoint: The weights; all of them must fit.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` and so on.
        batch_size: How many images go through the model at once when it is called with several.
        cfg_options: Changes the config, by dotted names.

    Attributes:
        loaded: The model with its config and pipeline.
        classes: The names of all its classes.

    Raises:
        UserError: See :func:`load_model`; or ``config`` is of the other kind.
    """

    task: ClassVar[Task]

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        *,
        device: str = "cpu",
        batch_size: int = 1,
        cfg_options: dict[str, Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"a batch size of {batch_size} holds no image; give 1 or more")
        self.batch_size = batch_size
        self.loaded = load_model(config, checkpoint, device=device, cfg_options=cfg_options)
        self.classes = self.loaded.classes
        if self.loaded.task != self.task:
            raise UserError(
                f"{self.loaded.cfg.filename} is a config for {self.loaded.task}, not for "
                f"{self.task}; halvit_mm.inference.load takes either"
            )

    def __call__(self, source: Source | Sequence[Source]) -> Any:
        """Reads images and runs the model on them.

        Args:
            source: A file, an array (height, width, 3) uint8 in RGB, or a sequence of these.

        Returns:
            The result of an image, or a list of them for a sequence.

        Raises:
            UserError: An image cannot be read; see :func:`read_image`.
        """
        if isinstance(source, str | Path | np.ndarray):
            return self.predict([_read(source)])[0]
        results = []
        for i in range(0, len(source), self.batch_size):
            results += self.predict([_read(one) for one in source[i : i + self.batch_size]])
        return results

    @abstractmethod
    def predict(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Runs the model on one batch of images, each (height, width, 3) uint8 in RGB."""

    @torch.inference_mode()
    def _test_step(self, batch: dict[str, Any]) -> list[Any]:
        try:
            return self.loaded.model.test_step(batch)
        except RuntimeError as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or "not enough memory" in str(error):
                count = len(batch["inputs"])
                raise UserError(
                    f"there is not enough memory for {count} image{'s' * (count > 1)} of this size "
                    "at once; make the batches or the images smaller"
                ) from error
            raise


class Detector(TorchPredictor):
    """A detector of mmdet.

    Images of a batch are padded to the largest of them, which moves scores a little where sizes
    differ; one at a time, as by default, they come out as ``tools/test.py`` has them.

    Args:
        config: A config file, or a config that was read.
        checkpoint: The weights; all of them must fit.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` and so on.
        batch_size: How many images go through the model at once when it is called with several.
        cfg_options: Changes the config, by dotted names.
        score_threshold: Detections of lower scores are left out.
    """

    task = "detection"

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        *,
        device: str = "cpu",
        score_threshold: float = 0.3,
        batch_size: int = 1,
        cfg_options: dict[str, Any] | None = None,
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise UserError(f"a score threshold of {score_threshold} is not from 0 to 1")
        self.score_threshold = score_threshold
        super().__init__(
            config, checkpoint, device=device, batch_size=batch_size, cfg_options=cfg_options
        )
        _raise_thresholds(self.loaded.model, score_threshold - _SLACK)

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Detections of one batch of images, each (height, width, 3) uint8 in RGB."""
        samples = self._test_step(prepare(self.loaded, images))
        return [
            self._detections(sample.pred_instances, image.shape[:2])
            for sample, image in zip(samples, images, strict=True)
        ]

    def _detections(self, found: Any, size: tuple[int, int]) -> Detections:
        found = found.cpu()
        order = found.scores.argsort(descending=True, stable=True)
        found = found[order].numpy()
        detections = Detections(
            boxes=found.bboxes.astype(np.float32, copy=False),
            scores=found.scores.astype(np.float32, copy=False),
            labels=found.labels.astype(np.int64, copy=False),
            masks=found.masks.astype(bool, copy=False) if "masks" in found else None,
            size=size,
            classes=self.classes,
        )
        return detections.above(self.score_threshold)


class Classifier(TorchPredictor):
    """A classifier of mmpretrain.

    Args:
        config: A config file, or a config that was read.
        checkpoint: The weights; all of them must fit.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` and so on.
        batch_size: How many images go through the model at once when it is called with several.
        cfg_options: Changes the config, by dotted names.
    """

    task = "classification"

    def predict(self, images: Sequence[np.ndarray]) -> list[Classification]:
        """Classes of one batch of images, each (height, width, 3) uint8 in RGB."""
        prepared = [prepare_one(self.loaded, image) for image in images]
        # Those that come out in one size go together: padding would change what a classifier says.
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, sample in enumerate(prepared):
            groups.setdefault(tuple(sample["inputs"].shape), []).append(i)
        scores: dict[int, np.ndarray] = {}
        for members in groups.values():
            batch = collate(self.loaded, [prepared[i] for i in members])
            for i, sample in zip(members, self._test_step(batch), strict=True):
                scores[i] = sample.pred_score.cpu().numpy().astype(np.float32, copy=False)
        return [
            Classification(scores=scores[i], size=image.shape[:2], classes=self.classes)
            for i, image in enumerate(images)
        ]


def load(
    config: str | Path | Config | None,
    checkpoint: str | Path,
    *,
    device: str = "cpu",
    score_threshold: float = 0.3,
    batch_size: int = 1,
    cfg_options: dict[str, Any] | None = None,
) -> Predictor:
    """The predictor for a config: a :class:`Detector` or a :class:`Classifier`.

    Args:
        config: The config; has no effect where ``checkpoint`` is a file ``*.onnx``.
        checkpoint: The weights, or a whole model in ONNX, which runs in onnxruntime.
        device: See :class:`TorchPredictor`.
        score_threshold: Detections of lower scores are left out; has no effect on classifiers.
        batch_size: See :class:`TorchPredictor`.
        cfg_options: See :class:`TorchPredictor`.

    Raises:
        UserError: See :func:`load_model`.
    """
    if str(checkpoint).lower().endswith(".onnx"):
        return _onnx(checkpoint, device=device, score_threshold=score_threshold)
    if config is None:
        raise UserError(f"{checkpoint}: weights alone are no model; name their config as well")
    from ..engine.config_errors import load_config

    cfg = config if isinstance(config, Config) else load_config(config, cfg_options)
    if cfg.get("default_scope") == "mmpretrain":
        return Classifier(cfg, checkpoint, device=device, batch_size=batch_size)
    return Detector(
        cfg,
        checkpoint,
        device=device,
        score_threshold=score_threshold,
        batch_size=batch_size,
    )


def _read(source: Source) -> np.ndarray:
    return read_image(source) if isinstance(source, str | Path) else check_pixels(source)


def _raise_thresholds(model: nn.Module, threshold: float) -> None:
    """Lets a detector drop what would be left out later, before it draws a mask for each.

    Suppression goes from high scores to low ones, so that what stays is the same.
    """
    for module in model.modules():
        options = getattr(module, "test_cfg", None)
        if isinstance(options, dict) and isinstance(options.get("score_thr"), float | int):
            options["score_thr"] = max(options["score_thr"], threshold)


def _onnx(path: str | Path, *, device: str, score_threshold: float) -> Predictor:
    if device != "cpu":
        raise UserError(f"--device {device}: models in ONNX run on the CPU here; give --device cpu")
    from ..deploy import OnnxModel

    model = OnnxModel(path, score_threshold=score_threshold)
    if model.task == "features":
        raise UserError(
            f"{path}: this is a backbone, which finds nothing by itself; export the whole model"
        )
    return model
