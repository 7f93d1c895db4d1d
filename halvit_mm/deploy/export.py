"""Models as ONNX files that hold each shared weight once, checked before they are kept."""

import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from .. import __version__
from ..analysis.sizes import CLASSIFIER_SIZE, image_size
from ..checkpoints.saving import new_file
from ..errors import UserError
from ..files import staged_files
from ..inference.models import LoadedModel
from .checking import Check, check
from .graph import LARGE, keep_weights_single
from .preprocessing import Step, apply, as_data, steps_of
from .programs import Part, exportable, trace
from .runtime import METADATA, OnnxModel
from .sizes import dense_twin_bytes, weight_bytes

#: The newest set of operators that this onnxruntime's releases have had for years.
OPSET = 20
#: Detectors are traced on an image of this size; any other will do.
_TRACED_SIZE = (320, 448)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What came of an export.

    Attributes:
        path: The file.
        precision: What the weights are stored in.
        file_bytes: Its size, with that of its weights if these have a file of their own.
        weight_bytes: Size of the model's own weights in fp32.
        dense_bytes: Size of the dense twin's weights in fp32; None where there is no such twin.
        shared: The names of the weights that are used more than once.
        check: How near the outputs come to PyTorch's.
    """

    path: Path
    precision: str
    file_bytes: int
    weight_bytes: int
    dense_bytes: int | None
    shared: tuple[str, ...]
    check: Check

    def summary(self) -> str:
        """Some lines for people."""
        lines = [
            f"{self.path}: {self.file_bytes / 1e6:.2f} MB ({self.precision}), the weights in fp32 "
            f"take {self.weight_bytes / 1e6:.2f} MB",
        ]
        if self.dense_bytes is not None:
            # The twin's file at the same precision has as much of a graph beside its weights.
            twin = f"its dense twin's weights take {self.dense_bytes / 1e6:.2f} MB in fp32"
            if self.precision == "fp32":
                twin += f", so that the file has {self.file_bytes / self.dense_bytes:.3f} of that"
            lines.append(twin)
        lines.append(
            f"{len(self.shared)} weights are used more than once, each is in the file once"
            if self.shared
            else "no weight is used more than once"
        )
        return "\n".join([*lines, self.check.summary()])


def export_onnx(
    loaded: LoadedModel,
    path: str | Path,
    *,
    images: Sequence[np.ndarray],
    part: Part = "model",
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    any_size: bool | None = None,
    any_batch: bool | None = None,
    external_data: bool = False,
) -> Exported:
    """Writes a model to an ONNX file, and keeps the file only if it does what the model does.

    Args:
        loaded: The model; it stays as it is.
        path: The file; must not exist.
        images: Real images to check the outputs on, (height, width, 3) uint8 in RGB.
        part: The whole model, or its ``"backbone"``, which gives features.
        precision: One of :data:`~halvit_mm.deploy.precision.PRECISIONS`.
        size: Height and width of the images in pixels; default: the config's. Has no effect on
            graphs for any size.
        any_size: Makes one graph for images of all sizes; default: for detectors only.
        any_batch: Makes one graph for all numbers of images; default: for all but detectors, which
            take one image at a time.
        external_data: Keeps the weights in a second file, ``PATH.data``, which onnxruntime maps
            into memory instead of copying it.

    Raises:
        UserError: A part of the model cannot be exported; the file exists or cannot be written;
            its outputs differ from PyTorch's, or a weight is in it more than once.
    """
    path = new_file(path, "")
    if not images:
        raise UserError("there is no image to check the exported model on; give at least one")
    is_detector = loaded.task == "detection"
    any_size = is_detector if any_size is None else any_size
    any_batch = not (is_detector and part == "model") if any_batch is None else any_batch
    if any_batch and is_detector and part == "model":
        raise UserError("detectors take one image at a time: suppression of boxes is for one")
    steps = steps_of(loaded.pipeline.transforms)
    if size is None:
        size = _TRACED_SIZE if any_size and is_detector else _size(loaded, steps, images)

    module = exportable(deepcopy(loaded.model).cpu(), part=part)
    model = make_graph(module, size, any_size=any_size, any_batch=any_batch)
    shared = keep_weights_single(model)
    if precision != "fp32":
        from .precision import set_precision

        set_precision(model, precision)
    check_single(model)
    model.metadata_props[METADATA] = json.dumps(
        dict(
            version=__version__,
            task="features" if part == "backbone" else loaded.task,
            classes=() if part == "backbone" else loaded.classes,
            precision=precision,
            preprocessing=as_data(steps),
        )
    )
    with staged_files(path) as temporary:
        # Where the weights have a file of their own, its name is in the graph.
        ir.save(model, temporary, external_data=f"{path.name}.data" if external_data else None)
        checked = check(loaded, OnnxModel(temporary), images, precision=precision)
        if not checked.agrees:
            raise UserError(
                f"{path} was not written: in onnxruntime the model does something else than in "
                f"PyTorch\n{checked.summary()}"
            )
        file_bytes = sum(file.stat().st_size for file in temporary.parent.iterdir())
    return Exported(
        path=path,
        precision=precision,
        file_bytes=file_bytes,
        weight_bytes=weight_bytes(module.backbone if part == "backbone" else loaded.model),
        dense_bytes=None if part == "backbone" else dense_twin_bytes(loaded.cfg),
        shared=shared,
        check=checked,
    )


def make_graph(
    module: nn.Module, size: tuple[int, int], *, any_size: bool, any_batch: bool
) -> ir.Model:
    """The ONNX graph of an exportable module, as PyTorch's exporter writes it.

    Args:
        module: See :func:`~halvit_mm.deploy.programs.exportable`; any other module of one input
            works as well if it has ``output_names``.
        size: See :func:`~halvit_mm.deploy.programs.trace`.
        any_size: As there.
        any_batch: As there.

    Raises:
        UserError: onnxscript is not installed.
    """
    try:
        from onnxscript import optimizer
    except ImportError:
        raise UserError("onnxscript is not installed; `pip install 'halvit_mm[deploy]'`") from None
    program = trace(module, size, any_size=any_size, any_batch=any_batch)
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(module.output_names),
            verbose=False,
        )
        optimizer.optimize_ir(exported.model, should_fold=_folds)
    return exported.model


def _folds(node: ir.Node) -> bool | None:
    """Leaves what is computed from a weight in the graph; the result would be a copy of it."""
    reads_weight = any(
        value is not None and value.is_initializer() and value.const_value.size >= LARGE
        for value in node.inputs
    )
    return False if reads_weight else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps progress, PyTorch's use of what it is about to drop, and the optimiser's notes away."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def check_single(model: ir.Model) -> None:
    """Makes sure that no weight is in a graph twice, as it is or transposed.

    Raises:
        UserError: One is.
    """
    seen: Counter[tuple] = Counter()
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()
        if array.ndim < 2 or array.size < LARGE:
            continue
        # The same numbers in any order and shape.
        key = (array.size, hash(np.sort(array, axis=None).tobytes()))
        seen[key] += 1
        if seen[key] > 1 and array.any():
            raise UserError(
                f"the exporter stored the weight {value.name} more than once; please report this "
                "with the config"
            )


def _size(
    loaded: LoadedModel, steps: Sequence[Step], images: Sequence[np.ndarray]
) -> tuple[int, int]:
    """Height and width of what comes out of the steps."""
    sizes = {apply(steps, image).shape[1:] for image in images}
    return sizes.pop() if len(sizes) == 1 else image_size(loaded.cfg, CLASSIFIER_SIZE)
