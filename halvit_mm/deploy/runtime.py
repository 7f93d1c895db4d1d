"""Exported models at work in onnxruntime. Needs neither torch nor OpenMMLab."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import UserError
from .exported_model import METADATA, ExportedModel, read_about


class OnnxModel(ExportedModel):
    """A detector, classifier or backbone that ``tools/export_onnx.py`` wrote.

    Files are made such that onnxruntime keeps each shared weight once, whatever the session's
    options (see :mod:`~halvit_mm.deploy.graph`).

    Args:
        path: The file.
        score_threshold: Detections of lower scores are left out; has no effect on classifiers.
        prefer: ``"memory"`` keeps shared weights once. ``"speed"`` lets onnxruntime lay them out
            anew for each use, which takes as much memory as the dense model.
        threads: Threads of one operator; None: as many as there are cores.

    Attributes:
        session: The ``onnxruntime.InferenceSession``.

    Raises:
        UserError: The file is missing, damaged, or not one of ``tools/export_onnx.py``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        score_threshold: float = 0.0,
        prefer: Literal["memory", "speed"] = "memory",
        threads: int | None = None,
    ) -> None:
        path = Path(path).expanduser()
        self.session = open_session(path, prefer=prefer, threads=threads)
        inputs = self.session.get_inputs()
        if [given.name for given in inputs] != ["image"]:
            raise UserError(f"{path}: not a model for images; give one of tools/export_onnx.py")
        super().__init__(
            path,
            self._about(path),
            outputs=[output.name for output in self.session.get_outputs()],
            input_shape=inputs[0].shape,
            score_threshold=score_threshold,
        )

    def _run(self, pixels: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, {"image": pixels})

    def _about(self, path: Path) -> dict[str, Any]:
        stored = self.session.get_modelmeta().custom_metadata_map.get(METADATA)
        if stored is None:
            raise UserError(
                f"{path}: the file does not say what its model is for; export it with "
                "tools/export_onnx.py"
            )
        return read_about(path, stored)


def open_session(
    path: str | Path, *, prefer: Literal["memory", "speed"] = "memory", threads: int | None = None
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU; see :class:`OnnxModel` for the arguments.

    Raises:
        UserError: The file is missing or damaged, or onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is not installed; `pip install onnxruntime`") from None
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: there is no such model; check the path")
    options = onnxruntime.SessionOptions()
    # Each shared weight would be warned of: that it cannot be taken for a constant is the point.
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    model: str | bytes = str(path)
    try:
        if prefer == "speed":
            model = with_constant_weights(path)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a dozen kinds, which onnxruntime does not name in public
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: onnxruntime cannot read this model ({reason})") from error


def with_constant_weights(path: str | Path) -> bytes:
    """A model whose shared weights are constants again, for runtimes to copy as they like."""
    import onnx

    model = onnx.load(path)
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model.SerializeToString()
