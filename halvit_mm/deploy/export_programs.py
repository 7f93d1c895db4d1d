"""Models as programs of PyTorch itself, each shared weight stored once, checked before kept.

Two formats, by the file's name:

* ``.pt2``: the graph of ``torch.export``, which any PyTorch since 2.6 loads without this project
  (detectors need torchvision as well, for its operators), and which ExecuTorch and AOTInductor
  start from. Weights are inputs of the graph, and Wᵀ is an operation on one of them.
* ``.pt`` or ``.torchscript``: TorchScript, for C++ and for what has not moved on. A weight is an
  attribute that several operations read. ``torch.jit.freeze`` and ``optimize_for_inference`` would
  make constants of the weights and compute Wᵀ from each of them, so neither is called here.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .. import __version__
from ..checkpoints.saving import new_file
from ..errors import UserError
from ..files import staged_files
from ..inference.models import LoadedModel
from .checking import TOLERANCES, Check, check
from .exported_model import METADATA
from .graph import LARGE
from .operators import outside_core, strip, to_core
from .preprocessing import apply, as_data, steps_of
from .program_runtime import TORCHSCRIPT, ProgramModel
from .programs import Part, exportable, trace
from .sizes import dense_twin_bytes, weight_bytes

SUFFIXES = (".pt2", *TORCHSCRIPT)
#: What is for images of all sizes is traced on this one, which no image has.
_TRACED_SIZE = (320, 448)
#: Images at once to check on. Programs are traced with two and checked with one as well.
_BATCH = 3
#: What a file may have beside its weights: a graph of some thousand nodes, and names.
_GRAPH_BYTES = 4_000_000
_GRAPH_SHARE = 0.02


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """What came of an export.

    Attributes:
        path: The file.
        file_bytes: Its size.
        weight_bytes: Size of the model's own weights.
        dense_bytes: Size of the dense twin's weights; None where there is no such twin.
        outside_core: Operators outside PyTorch's core set and how often each is used; None where
            the program was not broken down to that set.
        check: How near the outputs come to the model's.
    """

    path: Path
    file_bytes: int
    weight_bytes: int
    dense_bytes: int | None
    outside_core: dict[str, int] | None
    check: Check

    def summary(self) -> str:
        """Some lines for people."""
        lines = [
            f"{self.path}: {self.file_bytes / 1e6:.2f} MB, the weights take "
            f"{self.weight_bytes / 1e6:.2f} MB, and each is in the file once"
        ]
        if self.dense_bytes is not None:
            lines.append(
                f"its dense twin's weights take {self.dense_bytes / 1e6:.2f} MB, the file is "
                f"{self.file_bytes / self.dense_bytes:.3f} of that"
            )
        if self.outside_core is not None:
            names = ", ".join(f"{name} ({n})" for name, n in self.outside_core.items())
            lines.append(
                f"operators outside PyTorch's core set: {names}"
                if names
                else "all operators are of PyTorch's core set"
            )
        return "\n".join([*lines, self.check.summary()])


def export_program(
    loaded: LoadedModel,
    path: str | Path,
    *,
    images: Sequence[np.ndarray],
    part: Part = "model",
    core_aten: bool = False,
    any_size: bool | None = None,
) -> ExportedFile:
    """Writes a model to a file for PyTorch, and keeps it only if it does what the model does.

    Classifiers and backbones take any number of images, detectors one at a time.

    Args:
        loaded: The model; it stays as it is.
        path: The file, ``*.pt2``, ``*.pt`` or ``*.torchscript``; must not exist.
        images: Real images to check the outputs on, (height, width, 3) uint8 in RGB.
        part: The whole model, or its ``"backbone"``, which gives features.
        core_aten: Breaks operators down to PyTorch's core set, which other runtimes have; in
            PyTorch itself such programs are slower. For ``.pt2`` only.
        any_size: Makes one program for images of all sizes, for ``.pt2`` only; default: for whole
            detectors only.

    Raises:
        UserError: The name has another suffix; a part of the model cannot be exported, or not in
            this format; the file exists or cannot be written; its outputs differ from the model's,
            or a weight is in it more than once.
    """
    path = new_file(path, "")
    is_detector = loaded.task == "detection" and part == "model"
    any_size = is_detector if any_size is None else any_size
    _check_format(path, core_aten=core_aten, any_size=any_size, is_detector=is_detector)
    if not images:
        raise UserError("there is no image to check the exported model on; give at least one")
    steps = steps_of(loaded.pipeline.transforms)
    pixels = [apply(steps, image) for image in images]
    size = _TRACED_SIZE if any_size else _common_size(pixels)
    module = exportable(deepcopy(loaded.model).cpu(), part=part).requires_grad_(False)
    batch, sides = (1 if is_detector else "batch"), (("height", "width") if any_size else size)
    about = dict(
        version=__version__,
        task="features" if part == "backbone" else loaded.task,
        classes=() if part == "backbone" else loaded.classes,
        precision="fp32",
        preprocessing=as_data(steps),
        input=(batch, 3, *sides),
        outputs=module.output_names,
    )
    extra = {METADATA: json.dumps(about)}
    program = None
    with staged_files(path) as temporary, warnings.catch_warnings():
        # TorchScript warns of its age and of what it takes for granted, which is checked below.
        warnings.simplefilter("ignore")
        if path.suffix.lower() in TORCHSCRIPT:
            _save_script(module, size, temporary, extra)
        else:
            program = trace(module, size, any_size=any_size, any_batch=not is_detector)
            program = to_core(program) if core_aten else program
            _save_program(program, temporary, extra)
        exported = ProgramModel(temporary)
        file_bytes, own_bytes = temporary.stat().st_size, weight_bytes(module)
        check_single(exported.tensors, own_bytes, file_bytes)
        checked = check(loaded, exported, images, precision="fp32")
        if checked.agrees and not is_detector:
            checked = _check_batch(checked, module, exported, pixels)
        if not checked.agrees:
            raise UserError(
                f"{path} was not written: the program does something else than the model\n"
                f"{checked.summary()}"
            )
    return ExportedFile(
        path=path,
        file_bytes=file_bytes,
        weight_bytes=own_bytes,
        dense_bytes=None if part == "backbone" else dense_twin_bytes(loaded.cfg),
        outside_core=outside_core(program) if core_aten else None,
        check=checked,
    )


def check_single(tensors: Iterable[Tensor], weights: int, file: int) -> None:
    """Makes sure that no weight is in a file twice, as it is or in another order.

    Args:
        tensors: What the file holds.
        weights: Bytes of the model's weights.
        file: Bytes of the file.

    Raises:
        UserError: One is; or the file is larger than weights and a graph can be.
    """
    report = "please report this with the config"
    seen: set[tuple] = set()
    for tensor in tensors:
        if tensor.ndim < 2 or tensor.numel() < LARGE:
            continue
        values = np.sort(tensor.detach().cpu().numpy(), axis=None)
        key = (tensor.numel(), hash(values.tobytes()))
        if key in seen and values[0] != values[-1]:
            shape = " × ".join(map(str, tensor.shape))
            raise UserError(f"PyTorch stored a weight of {shape} more than once; {report}")
        seen.add(key)
    if file > weights * (1 + _GRAPH_SHARE) + _GRAPH_BYTES:
        raise UserError(f"the file has {file:,} bytes for weights of {weights:,}; {report}")


def _check_format(path: Path, *, core_aten: bool, any_size: bool, is_detector: bool) -> None:
    form = path.suffix.lower()
    if form not in SUFFIXES:
        raise UserError(f"{path}: name the file {' or '.join(f'*{s}' for s in SUFFIXES)}")
    if form in TORCHSCRIPT:
        if is_detector:
            raise UserError(
                f"{path}: TorchScript takes down what happens to one image, and what detectors do "
                "depends on what they find; name the file *.pt2, or export --part backbone"
            )
        if core_aten or any_size:
            option = "--core-aten" if core_aten else "--any-size"
            raise UserError(f"{path}: {option} does not go with TorchScript; name the file *.pt2")


def _common_size(pixels: Sequence[np.ndarray]) -> tuple[int, int]:
    sizes = {image.shape[1:] for image in pixels}
    if len(sizes) > 1:
        raise UserError(
            "the images come out of the test pipeline in different sizes; pass --any-size, or name "
            "images of one size"
        )
    return sizes.pop()


def _save_program(program: ExportedProgram, path: Path, extra: dict[str, str]) -> None:
    strip(program)
    # The file has an example of the input. Its shape is enough, for which one number is stored.
    ((image,), _) = program.example_inputs
    program.example_inputs = ((torch.zeros(1).expand(image.shape),), {})
    torch.export.save(program, path, extra_files=extra)


def _save_script(
    module: nn.Module, size: tuple[int, int], path: Path, extra: dict[str, str]
) -> None:
    # Two images, as whatever has one of something may be taken for what all have in common.
    image = torch.rand(2, 3, *size) * 255
    with torch.no_grad():
        script = torch.jit.trace(module, image, check_trace=False)
    torch.jit.save(script, path, _extra_files=extra)


@torch.inference_mode()
def _check_batch(
    checked: Check, module: nn.Module, exported: ProgramModel, pixels: Sequence[np.ndarray]
) -> Check:
    """Runs another number of images than one, or than the two of the trace."""
    first = [image for image in pixels if image.shape == pixels[0].shape]
    batch = np.stack([first[i % len(first)] for i in range(_BATCH)])
    try:
        got = exported.run(batch)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1]
        return replace(checked, agrees=False, differences=(f"{_BATCH} images fail: {reason}",))
    differences = []
    for (name, ours), theirs in zip(got.items(), module(torch.from_numpy(batch)), strict=True):
        apart = np.abs(ours - theirs.numpy()).max() if ours.shape == theirs.shape else np.inf
        if not apart <= TOLERANCES["fp32"].outputs * max(1, float(theirs.abs().max())):
            differences.append(f"{name} of {_BATCH} images differs by {apart:.1e}")
    return replace(checked, agrees=not differences, differences=tuple(differences))
