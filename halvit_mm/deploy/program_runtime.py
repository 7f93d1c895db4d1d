"""Exported programs of PyTorch at work. Needs torch and torchvision, but not OpenMMLab."""

import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401  the operators of detectors
from torch import Tensor

from ..errors import UserError
from .exported_model import METADATA, ExportedModel, read_about
from .program_files import check_program, check_script

#: What files of TorchScript are called; others are taken for those of ``torch.export``.
TORCHSCRIPT = (".pt", ".torchscript")


class ProgramModel(ExportedModel):
    """A detector, classifier or backbone that ``tools/export_program.py`` wrote.

    Args:
        path: The file.

    Attributes:
        tensors: All that the file holds, weights and constants.

    Raises:
        UserError: The file is missing, damaged, or not one of ``tools/export_program.py``; or it
            holds more than operations on tensors (see :mod:`~halvit_mm.deploy.program_files`).
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path).expanduser()
        if not path.is_file():
            raise UserError(f"{path}: there is no such model; check the path")
        is_script = path.suffix.lower() in TORCHSCRIPT
        (check_script if is_script else check_program)(path)
        load = _load_script if is_script else _load_program
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of TorchScript's age, and of read-only memory
                self._program, self.tensors, about = load(path)
        except Exception as error:  # damaged bytes can raise anything
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{path}: PyTorch cannot read this program ({reason})") from error
        if not about:
            raise UserError(
                f"{path}: the file does not say what its model is for; export it with "
                "tools/export_program.py"
            )
        about = read_about(path, about)
        super().__init__(
            path, about, outputs=about.get("outputs", ()), input_shape=about.get("input", ())
        )

    @torch.inference_mode()
    def _run(self, pixels: np.ndarray) -> list[np.ndarray]:
        try:
            return [out.numpy() for out in self._program(torch.from_numpy(pixels))]
        except AssertionError as error:  # maps of a single cell are what it was not traced with
            height, width = pixels.shape[2:]
            raise UserError(
                f"{self.path}: the program does not take images of {height} × {width} pixels "
                f"({error}); give larger ones"
            ) from error


def _load_program(path: Path) -> tuple[torch.nn.Module, list[Tensor], str]:
    about = {METADATA: ""}
    program = torch.export.load(path, extra_files=about)
    kept = [*program.state_dict.values(), *program.constants.values()]
    return program.module(), [v for v in kept if isinstance(v, Tensor)], about[METADATA]


def _load_script(path: Path) -> tuple[torch.nn.Module, list[Tensor], str]:
    about = {METADATA: ""}
    script = torch.jit.load(path, map_location="cpu", _extra_files=about)
    graph = script.inlined_graph  # its nodes are gone when it is
    constants = [
        node.t("value")
        for node in graph.findAllNodes("prim::Constant")
        if node.hasAttribute("value") and node.kindOf("value") == "t"
    ]
    text = about[METADATA]
    tensors = [*script.parameters(), *script.buffers(), *constants]
    return script, tensors, text if isinstance(text, str) else text.decode()
