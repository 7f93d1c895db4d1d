"""Checkpoints in the format ``safetensors``: tensors by name behind a header, no code.

A file starts with the length of its header in 8 bytes, then comes the header in JSON, then the
tensors' bytes. Facts beside the tensors are strings. What a checkpoint has there is written as
JSON under one single key: the library writes several in an order that differs from run to run.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from ..errors import UserError

SUFFIX = ".safetensors"

# The library's own limit.
_MAX_HEADER = 100_000_000
#: Where ``{"meta": …, "aliases": …}`` stands in the header.
_KEY = "checkpoint"


def is_safetensors(path: Path) -> bool:
    """Whether a file is of this format by its first bytes, or by its name where they are none.

    Files of torch are not, whatever they are called.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER:
        return True
    return path.suffix.lower() == SUFFIX and not start.startswith((b"PK", b"\x80"))


def check(path: Path) -> None:
    """Looks at a file's header only, which takes no time.

    Raises:
        UserError: It is damaged, or the tensors behind it are cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > _MAX_HEADER:
            raise UserError(f"{path}: this is no file of safetensors; give another checkpoint")
        header = file.read(length)
    if len(header) < length:
        raise _cut_off(path)
    try:
        entries = json.loads(header)
        ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: the header of this checkpoint is damaged; copy or download it again"
        ) from error
    if size < expected:
        raise _cut_off(path)


def read(path: Path) -> dict[str, Any]:
    """The content of a file: ``state_dict`` and, where there are facts beside it, ``meta``.

    Raises:
        UserError: The file is damaged.
    """
    library = _library(path)
    try:
        with library.safe_open(path, framework="pt", device="cpu") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = _facts(file.metadata() or {})
        weights |= {name: weights[kept] for name, kept in facts.get("aliases", {}).items()}
    except (library.SafetensorError, KeyError, AttributeError, TypeError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path}: the checkpoint is damaged ({reason}); copy or download it again"
        ) from error
    meta = facts.get("meta")
    return {"state_dict": weights} | ({"meta": meta} if isinstance(meta, dict) else {})


def write(content: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint's weights, each once, and of its ``meta`` what JSON can say.

    A tensor under several names is stored under the first of them.

    Args:
        content: ``state_dict`` and perhaps ``meta``.
        path: The file, which is overwritten; the same content gives the same bytes.

    Raises:
        UserError: The content is more than that, or of a type that the format has no name for.
        OSError: It cannot be written.
    """
    if strange := sorted(content.keys() - {"state_dict", "meta"}):
        raise UserError(
            f"a file of safetensors holds weights and plain facts, not {strange[0]!r}; write a "
            ".pth file"
        )
    tensors, aliases = _distinct(content["state_dict"])
    facts: dict[str, Any] = {"meta": _in_json(content.get("meta") or {})}
    if aliases:
        facts["aliases"] = aliases
    library = _library(path)
    try:
        library.torch.save_file(tensors, path, {_KEY: json.dumps(facts)})
    except library.SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), str(error)) from error
        raise
    except KeyError as error:  # that is how it says what it does not know
        raise UserError(
            f"tensors of {error.args[0]} have no place in a file of safetensors; write a .pth file"
        ) from error


def _library(path: Path) -> ModuleType:
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(
            f"{path}: files of this kind need the package safetensors: run pip install safetensors"
        ) from None
    return safetensors


def _distinct(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that share no memory, and which other names they have."""
    names: dict[tuple, str] = {}
    storages: set[int] = set()
    tensors, aliases = {}, {}
    for name, value in weights.items():
        tensor = value.detach()
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and names.setdefault(key, name) != name:
            aliases[name] = names[key]
            continue
        tensors[name] = tensor.cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        if storage in storages:  # a part of another tensor, which the format cannot say
            tensors[name] = tensors[name].clone()
        storages.add(storage)
    return tensors, aliases


def _in_json(meta: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in meta.items():
        try:
            kept[str(key)] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return kept


def _facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What stands beside the tensors, in files of this project's; other tools have other keys."""
    try:
        facts = json.loads(metadata.get(_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _cut_off(path: Path) -> UserError:
    return UserError(
        f"{path}: the checkpoint is cut off; copy or download it again, or take an earlier one"
    )
