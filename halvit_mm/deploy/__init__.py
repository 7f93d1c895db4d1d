"""Models on their way to devices: graphs that hold each shared weight once, and what runs them.

Nothing is imported before it is asked for: :class:`OnnxModel` needs neither torch nor OpenMMLab.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ExportableBackbone": "programs",
    "ExportableClassifier": "programs",
    "ExportableDetector": "detectors",
    "Exported": "export",
    "OnnxModel": "runtime",
    "ProgramModel": "program_runtime",
    "export_onnx": "export",
    "export_program": "export_programs",
    "keep_weights_single": "graph",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
