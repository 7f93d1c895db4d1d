"""The models that the page offers: named on the command line, loaded before the page opens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..inference.results import Detections, Predictor

#: Detectors are asked for everything from this score on, so that visitors may move the threshold.
LEAST_SCORE = 0.05

_CONFIG, _ONNX = ".py", ".onnx"


@dataclass(frozen=True)
class ModelSource:
    """A model to load.

    Attributes:
        name: What the page calls it.
        config: Its config; None of an ONNX file without one.
        checkpoint: Its weights, of a PyTorch or an ONNX file.
    """

    name: str
    config: Path | None
    checkpoint: Path


def model_sources(files: Sequence[str]) -> list[ModelSource]:
    """Takes apart what a command line names: ``CONFIG CHECKPOINT`` pairs and single ONNX files.

    Models are called after their configs, and after their checkpoints, too, where one config has
    several.

    Raises:
        UserError: A file does not exist, a config has no checkpoint or the other way round.
    """
    pairs: list[tuple[Path | None, Path]] = []
    config: Path | None = None
    for file in map(Path, files):
        if not file.is_file():
            raise UserError(f"{file}: there is no such file")
        if file.suffix == _CONFIG and config is None:
            config = file
        elif file.suffix == _CONFIG:
            raise UserError(f"{config}: its checkpoint is missing; name it right after the config")
        elif config is None and file.suffix != _ONNX:
            raise UserError(f"{file}: name its config right before it: CONFIG CHECKPOINT")
        else:
            pairs.append((config, file))
            config = None
    if config is not None:
        raise UserError(f"{config}: its checkpoint is missing; name it right after the config")
    stems = [(config or checkpoint).stem for config, checkpoint in pairs]
    names = [
        stem if stems.count(stem) == 1 else f"{stem} ({checkpoint.parent.name}/{checkpoint.name})"
        for stem, (_, checkpoint) in zip(stems, pairs, strict=True)
    ]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{twice}: this model is named twice; leave one out")
    return [ModelSource(name, *pair) for name, pair in zip(names, pairs, strict=True)]


@dataclass(frozen=True)
class Inside:
    """A picture of what makes a model decide.

    Attributes:
        title: What it shows.
        draw: Gives it for an image; both are (height, width, 3) uint8 in RGB.
    """

    title: str
    draw: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that is ready for pictures.

    Attributes:
        name: What the page calls it.
        predictor: Runs it.
        detects: Whether it gives detections, not a classification.
        facts: What the page says of it: names and values.
        inside: Shows what makes it decide; None where that cannot be seen.
    """

    name: str
    predictor: Predictor
    detects: bool
    facts: tuple[tuple[str, str], ...]
    inside: Inside | None


def open_models(
    sources: Sequence[ModelSource], *, device: str, tell: Callable[[str], None]
) -> list[ServedModel]:
    """Loads all models, and runs each once, so that what is wrong shows before the page opens.

    Args:
        sources: The models.
        device: Where they run.
        tell: Called with a line before each.

    Raises:
        UserError: A model cannot be loaded.
    """
    models = []
    for source in sources:
        tell(f"loading {source.name}")
        models.append(_open(source, device))
    return models


def _open(source: ModelSource, device: str) -> ServedModel:
    from ..inference.predictors import load

    predictor = load(source.config, source.checkpoint, device=device, score_threshold=LEAST_SCORE)
    # The first run takes longer than others, and is no visitor's.
    (result,) = predictor.predict([np.full((64, 64, 3), 128, np.uint8)])
    detects = isinstance(result, Detections)
    facts = [
        ("Task", f"{'detects' if detects else 'tells apart'} {_classes(predictor.classes)}"),
        *_counts(source.config),
        ("Weights", source.checkpoint.name),
        ("Runs in", "onnxruntime" if source.checkpoint.suffix == _ONNX else f"PyTorch, {device}"),
    ]
    return ServedModel(source.name, predictor, detects, tuple(facts), _inside(predictor))


def _classes(classes: Sequence[str]) -> str:
    return ", ".join(classes) if len(classes) <= 3 else f"{len(classes)} classes"


def _counts(config: Path | None) -> list[tuple[str, str]]:
    """Parameters that a config's model stores, and those of the same model without sharing."""
    if config is None:
        return []
    from ..analysis import count_model
    from ..engine.config_errors import load_config

    count = count_model(load_config(config))
    stored = count.total.parameters
    if count.dense_twin is None:
        return [("Stored parameters", f"{stored:,}")]
    dense = count.dense_twin.total.parameters
    return [
        ("Stored parameters", f"{stored:,} ({stored / dense:.0%} of the dense twin's)"),
        ("Dense twin", f"{dense:,}"),
    ]


def _inside(predictor: Predictor) -> Inside | None:
    loaded = getattr(predictor, "loaded", None)
    if loaded is None:  # an ONNX file
        return None
    from ..visualization.attention import attention_layers
    from ..visualization.looking import attention_picture, grad_cam_picture

    try:
        attention_layers(loaded.model.backbone, (1, 1))
    except UserError:  # a convolutional network
        title = "What speaks for the surest class (Grad-CAM)"
        return Inside(title, partial(grad_cam_picture, loaded))
    return Inside("Where the backbone looks (attention)", partial(attention_picture, loaded))
