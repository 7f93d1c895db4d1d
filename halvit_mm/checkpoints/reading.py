"""Reading the weights in a checkpoint, without running code that it may bring."""

import hashlib
import re
import stat
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from ..errors import UserError
from . import safetensors_format
from .allowlist import SAFE_GLOBALS, check_pickle
from .archives import check_archive, read_pickle
from .contents import check_weights, settle

StateDict = dict[str, Tensor]

#: How torch says that a pickle is after more than weights.
_FORBIDDEN = re.compile(r"(?:GLOBAL|unrecognized function|but got) (.+)")


def check_file(path: str | Path, *, contents: bool = False) -> None:
    """Looks at a checkpoint's name and outer form, which takes no time.

    Args:
        path: A file, or an http(s) address, of which nothing is looked at.
        contents: Reads all of the file and compares it with the checksums in it. Only files of
            torch since 1.6 have any; of older ones and of safetensors it is seen whether they are
            cut off.

    Raises:
        UserError: The file is missing, empty, cut off, damaged, or neither of torch nor of
            safetensors.
    """
    if _is_url(path):
        return
    path = Path(path).expanduser()
    try:
        # What is no file, such as a pipe, might never come to its end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: cannot read the checkpoint (this is no file); name a file")
        if safetensors_format.is_safetensors(path):
            return safetensors_format.check(path)
        with path.open("rb") as file:
            magic = file.read(4)
        if magic.startswith(b"PK"):
            return check_archive(path, contents=contents)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such checkpoint; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read the checkpoint ({error.strerror})") from error
    if not magic.startswith(b"\x80"):  # torch before 1.6 wrote bare pickles
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
        UserError: The file is missing or damaged, needs code to load, holds no dict, or holds what
            is larger than itself.
    """
    file = _download(str(path)) if _is_url(path) else Path(path).expanduser()
    check_file(file, contents=True)
    if safetensors_format.is_safetensors(file):
        checkpoint = safetensors_format.read(file)
    else:
        checkpoint = _unpickle(file, path, weights_only=weights_only)
    if not isinstance(checkpoint, dict):
        raise UserError(
            f"{path}: the file holds a {type(checkpoint).__name__}, not a dict of weights; "
            "save the model's state_dict() instead"
        )
    return settle(checkpoint, path, file.stat().st_size)


def read_meta(path: str | Path) -> dict[str, Any]:
    """The facts beside the weights, which are not read: in no time, and without their checksums.

    Args:
        path: A file that torch wrote, since 1.6.

    Raises:
        UserError: See :func:`read_checkpoint`; or there are no facts.
    """
    file = Path(path).expanduser()
    check_file(file)
    checkpoint = settle(_unpickle(file, path, mmap=True), path, file.stat().st_size)
    meta = checkpoint.get("meta") if isinstance(checkpoint, dict) else None
    if not isinstance(meta, dict):
        raise UserError(f"{path}: the checkpoint does not say what training it is of")
    return meta


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

    Raises:
        UserError: There are none; or they are not finite or not as a model's are (see
            :func:`.contents.check_weights`).
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
    check_weights(weights, path)
    return {
        name.removeprefix("module."): value
        for name, value in weights.items()
        if isinstance(value, Tensor)
    }


def _unpickle(
    file: Path, path: str | Path, *, weights_only: bool = True, mmap: bool = False
) -> Any:
    try:
        if weights_only:
            _check_pickles(file)
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(file, map_location="cpu", weights_only=weights_only, mmap=mmap)
    except UnpicklingError as error:
        if wanted := _FORBIDDEN.search(str(error)):
            raise UserError(
                f"{path}: loading would run code ({_printable(wanted[1])}), which a file of "
                "weights need not; if you trust its source, load it with weights_only=False and "
                "save its state_dict"
            ) from error
        raise UserError(f"{path}: the checkpoint is damaged; copy or download it again") from error
    except Exception as error:  # damaged bytes can raise anything
        reason = _printable(str(error).strip().split("\n")[0]) or type(error).__name__
        raise UserError(
            f"{path}: the checkpoint is damaged ({reason}); copy or download it again"
        ) from error


def _check_pickles(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(2) == b"PK":
            return check_pickle(read_pickle(file))
        opened.seek(0)
        for _ in range(4):  # two numbers, facts about the machine, and the checkpoint
            check_pickle(opened)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


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
        try:
            check_file(file, contents=True)
        except UserError as error:  # so that the next try is a new one
            file.unlink()
            raise UserError(f"{url}: {error}") from error
    return file
