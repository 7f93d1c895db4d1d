"""Trained models at work on images: in two lines of Python, or file by file.

>>> from halvit_mm.inference import Detector                              # doctest: +SKIP
>>> Detector("config.py", "epoch_12.pth")("photo.jpg").boxes              # doctest: +SKIP

Nothing is imported before it is asked for: what reads images or runs models in onnxruntime needs
neither mmdet nor mmpretrain.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Classification": "results",
    "Classifier": "predictors",
    "Detections": "results",
    "Detector": "predictors",
    "LoadedModel": "models",
    "Predictor": "results",
    "draw_classification": "drawing",
    "draw_detections": "drawing",
    "load": "predictors",
    "load_model": "models",
    "prepare": "pipeline",
    "read_image": "images",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
