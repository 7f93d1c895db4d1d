"""Training checkpoints made fit to hand out: weights and plain facts, nothing else."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..files import staged_files
from .reading import StateDict, find_weights, read_checkpoint
from .safetensors_format import SUFFIX
from .saving import write_checkpoint

#: What is kept of the facts that mmengine writes beside the weights.
META_KEYS = ("dataset_meta", "classes", "cfg", "epoch", "iter", "seed", "time", "mmengine_version")


def publish(
    source: str | Path, target: str | Path, *, ema: bool = False, fp16: bool = False
) -> Path:
    """Writes the weights of a training checkpoint to a file that anybody can load safely.

    The file holds ``state_dict`` and ``meta``, the latter in plain types only, so that
    ``torch.load(weights_only=True)`` reads it, or the library safetensors where the name ends so.
    The same input gives the same bytes.

    Args:
        source: A checkpoint of mmengine, or any that :func:`read_state_dict` reads.
        target: The file to write; eight digits of its SHA-256 are put behind the name.
        ema: Insists on averaged weights.
        fp16: Casts floating point weights to half precision, which halves the file.

    Returns:
        The path written: ``model.pth`` becomes ``model-1a2b3c4d.pth``.

    Raises:
        UserError: The input cannot be read, fp16 would overflow, or the output cannot be written;
            there is no partial output then.
    """
    target = Path(target).expanduser()
    if target.is_dir():
        raise UserError(f"{target}: this is a folder; name the file to write")
    form = SUFFIX if target.suffix.lower() == SUFFIX else ".pth"
    stem = target.stem if target.suffix.lower() == form else target.name
    checkpoint = read_checkpoint(source)
    published = {
        "state_dict": _compact(find_weights(checkpoint, source, ema=ema), source, fp16=fp16),
        "meta": _plain_meta(checkpoint.get("meta")),
    }
    with staged_files(target) as temporary:
        write_checkpoint(published, temporary, form=form)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        final = temporary.rename(temporary.with_name(f"{stem}-{digest[:8]}{form}"))
    return target.with_name(final.name)


def _compact(weights: StateDict, source: str | Path, *, fp16: bool) -> StateDict:
    """The weights without the rest of larger storages that they may be views of.

    A tensor under two names stays one.
    """
    done: dict[tuple, Tensor] = {}
    compact = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in done or tensor.numel() == 0:
            small = tensor.half() if fp16 and tensor.is_floating_point() else tensor
            if small.isinf().any() and not tensor.isinf().any():
                raise UserError(f"{source}: {name} is too large for half precision; omit --fp16")
            done[key] = small.detach().clone()
        compact[name] = done[key]
    return compact


def _plain_meta(meta: Any) -> dict[str, Any]:
    from .. import __version__

    meta = meta if isinstance(meta, dict) else {}
    kept = {key: _plain(meta[key]) for key in META_KEYS if key in meta}
    return {**kept, "torch_version": str(torch.__version__), "halvit_mm_version": __version__}


def _plain(value: Any) -> Any:
    """The same value in types that every reader of pickles knows."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
