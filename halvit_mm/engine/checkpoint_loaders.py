"""What mmengine reads checkpoints with: safe, and taught the format of safetensors.

mmengine reads a pickle with torch's ``weights_only`` first, and where that refuses it, warns and
runs the code in it. Here all its schemes of addresses are registered anew, so that its runner, its
``Pretrained`` initialiser and the tools of mmdet and mmpretrain all read by
:func:`halvit_mm.checkpoints.reading.read_checkpoint`. Everything comes to the CPU; loading takes
weights to where the model is.
"""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import barrier, get_rank
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from torch import Tensor

from ..checkpoints.contents import check_weights
from ..checkpoints.reading import read_checkpoint
from ..errors import UserError


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_file(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads a file of torch or of safetensors.

    Raises:
        UserError: See :func:`read_checkpoint`; or there are no weights, or they are not finite.
    """
    checkpoint = read_checkpoint(filename)
    found = [checkpoint.get("state_dict", checkpoint)]
    found += [checkpoint["ema_state_dict"]] if "ema_state_dict" in checkpoint else []
    for weights in found:
        if (
            not isinstance(weights, dict)
            or not any(isinstance(value, Tensor) for value in weights.values())
            or not all(isinstance(name, str) for name in weights)
        ):
            raise UserError(
                f"{filename}: there are no weights in this checkpoint; give a model's one"
            )
        check_weights(weights, filename)
    if isinstance(meta := checkpoint.get("meta"), dict):
        # The config in checkpoints of mmcv's runner, which mmengine runs as Python when it resumes.
        meta.pop("config", None)
    return checkpoint


# mmengine matches its prefixes as patterns, the last of the alphabet first.
@CheckpointLoader.register_scheme(prefixes=("http://", "https://"), force=True)
def load_from_http(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Downloads a file, one process for all, and reads it; see :func:`load_from_file`."""
    checkpoint = load_from_file(filename) if get_rank() == 0 else None
    barrier()
    return load_from_file(filename) if checkpoint is None else checkpoint


@CheckpointLoader.register_scheme(prefixes=("modelzoo://", "torchvision://"), force=True)
def load_from_torchvision(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Downloads one of torchvision's models."""
    return load_from_http(_address(filename, get_torchvision_models()))


@CheckpointLoader.register_scheme(prefixes=("open-mmlab://", "openmmlab://"), force=True)
def load_from_openmmlab(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Downloads one of OpenMMLab's models."""
    return load_from_http(_address(filename, get_external_models(), get_deprecated_model_names()))


@CheckpointLoader.register_scheme(prefixes="mmcls://", force=True)
def load_from_mmcls(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Downloads the backbone of one of MMClassification's models."""
    checkpoint = load_from_http(_address(filename, get_mmcls_models()))
    weights = checkpoint.get("state_dict", checkpoint)
    prefix = "backbone."
    return {
        "state_dict": {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix) and isinstance(value, Tensor)
        }
    }


@CheckpointLoader.register_scheme(
    prefixes=("pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), force=True
)
def load_from_elsewhere(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Refuses what needs the libraries of some data centres."""
    raise UserError(f"{filename}: copy this checkpoint to a file and name that")


def _address(
    filename: str, models: Mapping[str, str], renamed: Mapping[str, str] | None = None
) -> str:
    name = filename.partition("://")[2]
    address = models.get((renamed or {}).get(name, name), "")
    if not address.startswith(("http://", "https://")):
        raise UserError(f"{filename}: there is no such model; check its name")
    return address
