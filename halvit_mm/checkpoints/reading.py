"""Reading the weights in a checkpoint, without running code that it may bring."""

import hashlib
import importlib
import re
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import UserError
from . import safetensors_format

StateDict = dict[str, Tensor]


def check_file(path: str | Path) -> None:
    """Looks at a checkpoint's name and outer form only, which takes no time.

    Raises:
        UserError: The file is missing, empty, cut off, or neither of torch nor of safetensors.
    """
    if _is_url(path):
        return
    path = Path(path).expanduser()
    try:
        if safetensors_format.is_safetensors(path):
            return safetensors_format.check(path)
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    if magic.startswith(b"PK"):
        # The directory of a zip file stands at its end.
        if not zipfile.is_zipfile(path):
            raise UserError(
                f"{path}: the checkpoint is cut off; copy or download it again, "
                "or take an earlier one"
            )
    elif not magic.startswith(b"\x80"):  # torch before 1.6 wrote bare pickles
        raise UserError(
            f"{path}: this is not a checkpoint of PyTorch; give a .pth or .safetensors file"
        )


def read_checkpoint(path: str | Path, *, weights_only: bool = True) -> dict[str, Any]:
    """Reads a whole checkpoint to the CPU.

    Args:
        path: A file of torch or of safetensors, told apart by what is in them; or an http(s)
            address, which is kept in torch's download cache.
        weights_only: Refuses pickles that would run code. What mmengine writes beside the weights
            (numpy numbers and log histories) and the options that DeiT, Swin and MiniViT keep there
            are allowed.

    Raises:
        UserError: The file is missing or damaged, needs code to load, or holds no dict.
    """
    file = _download(str(path)) if _is_url(path) else Path(path).expanduser()
    check_file(file)
    if safetensors_format.is_safetensors(file):
        return safetensors_format.read(file)
    try:
        with torch.serialization.safe_globals([*_mmengine_globals(), *_OPTIONS]):
            checkpoint = torch.load(file, map_location="cpu", weights_only=weights_only)
    except UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path}: loading would run code ({wanted[1]}), which a file of weights need not; "
                "if you trust its source, load it with weights_only=False and save its state_dict"
            ) from error
        raise UserError(f"{path}: the checkpoint is damaged; copy or download it again") from error
    except Exception as error:  # damaged bytes can raise anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path}: the checkpoint is damaged ({reason}); copy or download it again"
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{path}: the file holds a {type(checkpoint).__name__}, not a dict of weights; "
            "save the model's state_dict() instead"
        )
    return checkpoint


def read_state_dict(path: str | Path, *, ema: bool = False, weights_only: bool = True) -> StateDict:
    """Reads the weights of a checkpoint: its ``state_dict``, its ``model``, or the whole file.

    Args:
        path: A file or an http(s) address.
        ema: Insists on averaged weights (see :func:`find_weights`).
        weights_only: See :func:`read_checkpoint`.

    Raises:
        UserError: See :func:`read_checkpoint`; or there are no (averaged) weights in the file.
    """
    return find_weights(read_checkpoint(path, weights_only=weights_only), path, ema=ema)


def find_weights(checkpoint: dict[str, Any], path: str | Path, *, ema: bool = False) -> StateDict:
    """The weights within a checkpoint that was read, without a leading ``module.``.

    With ``ema`` they are averaged weights or an error. mmengine's EMAHook exchanges the two when
    it saves: ``state_dict`` holds the average and ``ema_state_dict`` what was being trained. timm
    and DeiT keep the average as ``state_dict_ema`` and ``model_ema``.
    """
    if ema:
        key = {"ema_state_dict": "state_dict"} | {k: k for k in ("state_dict_ema", "model_ema")}
        found = next((key[k] for k in key if k in checkpoint), None)
        if found is None:
            raise UserError(f"{path}: the checkpoint has no averaged weights; read it without EMA")
        weights = checkpoint[found]
    else:
        weights = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    if not isinstance(weights, dict) or not any(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(f"{path}: there are no weights in this checkpoint; give a model's one")
    return {
        name.removeprefix("module."): value
        for name, value in weights.items()
        if isinstance(value, Tensor)
    }


class _ConfigNode:
    """Stands for the dict of package yacs, which need not be installed; is an ordinary one."""

    def __new__(cls) -> OrderedDict:
        return OrderedDict()  # of all dicts with attributes, torch fills this kind only


#: What training codes keep their options in.
_OPTIONS = [Namespace, (_ConfigNode, "yacs.config.CfgNode")]


def _history_statistic(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in pickles, of which mmengine's histories need nothing else."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise UnpicklingError(f"Unsupported global: GLOBAL getattr({owner}, {name!r})")
    return getattr(owner, name)


def _mmengine_globals() -> list:
    """What mmengine's checkpoints hold beside tensors and plain types: numbers of numpy's."""
    multiarray = importlib.import_module(np.zeros(0).__reduce__()[0].__module__)  # numpy 1 and 2
    codes = "?" + np.typecodes["AllInteger"] + np.typecodes["Float"]
    return [
        HistoryBuffer,
        (_history_statistic, "builtins.getattr"),
        np.ndarray,
        np.dtype,
        multiarray._reconstruct,
        multiarray.scalar,
        *{type(np.dtype(code)) for code in codes},
    ]


def _is_url(path: str | Path) -> bool:
    return urlparse(str(path)).scheme in ("http", "https")


def _download(url: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    # Half the world's checkpoints are called epoch_12.pth.
    digest = hashlib.sha256(url.encode()).hexdigest()
    file = folder / f"{digest[:8]}-{Path(urlparse(url).path).name}"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except OSError as error:
            raise UserError(f"{url}: the download failed ({error}); check the address") from error
    return file
