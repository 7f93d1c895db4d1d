"""What came out of a checkpoint, before anything relies on it.

A reader that runs no code still makes whatever a file tells it to: tensors that are larger than the
file, dicts whose methods are replaced by numbers, lists that contain themselves.
"""

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import UserError
from .allowlist import STATISTICS, PickledArray

#: How many times larger than the file tensors may be that repeat what is in it, and what even a
#: small file may hold.
_TIMES, _BYTES = 32, 1 << 26
#: Containers within each other, and values when shared containers count each time.
_DEPTH, _VALUES = 100, 10_000_000

_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


def settle(checkpoint: Any, path: str | Path, size: int) -> Any:
    """The content of a checkpoint in types that hold nothing but values.

    Args:
        checkpoint: What was unpickled. Dicts and lists of it are changed.
        path: The file, for errors.
        size: Its size in bytes.

    Raises:
        UserError: A tensor is not an ordinary one or has more numbers than the file can hold, or
            something that is no tensor is not as it was written.
    """
    try:
        return _Settling(size).value(checkpoint)[0]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # attributes may be of any type
        raise UserError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}); copy or download it again"
        ) from error


def check_weights(weights: Mapping[Any, Any], path: str | Path) -> None:
    """Looks at the names, types and values of weights; what is no tensor is passed over.

    -∞ is accepted where a tensor holds nothing else but 0, as masks of attention do.

    Raises:
        UserError: A name is not one line of text, or there with and without ``module.``; or a
            tensor is of a type that no weights have, or has values that are not finite.
    """
    bad: list[str] = []
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            continue
        if not isinstance(name, str) or not name.isprintable():
            raise UserError(
                f"{path}: {name!r:.80} is no name of a weight; save the model's state_dict()"
            )
        if name.removeprefix("module.") != name and name.removeprefix("module.") in weights:
            raise UserError(
                f"{path}: {name} is there without `module.` as well; save one model's "
                "state_dict() alone"
            )
        if value.dtype not in _DTYPES:
            raise UserError(
                f"{path}: {name} is of type {value.dtype}, which no weights here have; save them "
                "as floating point numbers"
            )
        if value.is_floating_point() and not value.is_meta and not _finite(value):
            bad.append(name)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise UserError(
            f"{path}: {', '.join(bad[:3])}{more}: values that are not finite; give a checkpoint "
            "from before the training diverged, or download the file again"
        )


def _finite(value: Tensor) -> bool:
    if value.isfinite().all():
        return True
    zero, shut = value == 0, value == -torch.inf
    return bool(zero.any() and (zero | shut).all())


class _Settling:
    """One walk through a checkpoint; each container is looked at once, however often it is used."""

    def __init__(self, size: int) -> None:
        self._storages: dict[int, int] = {}
        self._left = size
        self._repeated = _TIMES * size + _BYTES
        #: By id: the value, how many values are in it, and how deep; None while it is looked at.
        self._done: dict[int, tuple[Any, int, int] | None] = {}
        self._keep: list[Any] = []  # an id is only that of what lives

    def value(self, value: Any) -> tuple[Any, int, int]:
        if isinstance(value, str):
            value.encode()  # a lone surrogate cannot be printed
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value, 1, 0
        if isinstance(value, Tensor):
            self._repeated -= value.numel() * value.element_size()
        if id(value) not in self._done:
            self._keep.append(value)
            self._done[id(value)] = None
            self._done[id(value)] = self._new(value)
        if self._left < 0 or self._repeated < 0:
            raise UserError("the tensors are larger than the file can hold; it may be an attack")
        found = self._done[id(value)]
        if found is None:
            raise UserError("the checkpoint is damaged (it contains itself)")
        if found[1] > _VALUES or found[2] > _DEPTH:
            raise UserError("the checkpoint unfolds to more than it can hold; it may be an attack")
        return found

    def _new(self, value: Any) -> tuple[Any, int, int]:
        if isinstance(value, Tensor):
            return self._tensor(value), 1, 0
        if isinstance(value, PickledArray):
            if value.value is None:
                raise UserError("the checkpoint is damaged (an array without content)")
            return value.value, 1, 0
        if isinstance(value, HistoryBuffer):
            return self._history(value), 1, 0
        if isinstance(value, dict):
            self._check_attributes(value)
            return self._items(value, list(value.items()), value)
        if isinstance(value, Namespace):
            return self._items(value, list(vars(value).items()), vars(value))
        if isinstance(value, list):
            return self._items(value, list(enumerate(value)), value)
        if type(value) in (tuple, set, frozenset):
            parts = [self.value(part) for part in value]
            settled = type(value)(part[0] for part in parts)
            return settled, *_size(parts)
        return value, 1, 0  # torch.Size, a dtype, a number of numpy's

    def _items(self, value: Any, items: list[tuple], target: Any) -> tuple[Any, int, int]:
        parts = []
        for key, part in items:
            found = self.value(part)
            parts += (self.value(key), found)
            if found[0] is not part:
                target[key] = found[0]
        return value, *_size(parts)

    def _check_attributes(self, value: dict) -> None:
        """Only those of a model's state dict are of use: the versions of its modules."""
        attributes = getattr(value, "__dict__", {})
        if any(hasattr(OrderedDict, name) for name in attributes):
            raise UserError("the checkpoint is damaged (a dict without its methods)")
        versions = attributes.get("_metadata")
        attributes.clear()
        if versions is not None:
            value._metadata = OrderedDict(
                (self.value(name)[0], self._facts(entry)) for name, entry in dict.items(versions)
            )

    def _facts(self, entry: dict) -> dict[str, Any]:
        if not isinstance(dict.get(entry, "version"), int | None):
            raise UserError("the checkpoint is damaged (the version of a module)")
        return dict(dict.items(entry))

    def _tensor(self, value: Tensor) -> Tensor:
        plain = Tensor.detach(value)  # what hooks or attributes came with it go
        if (
            type(plain) is not Tensor
            or plain.layout is not torch.strided
            or plain.device.type != "cpu"
            or plain.is_quantized
            or plain.is_nested
        ):
            raise UserError(
                "it holds a sparse, quantized, nested or empty shell of a tensor, where weights "
                "are ordinary tensors; save the model's state_dict() as such"
            )
        storage = plain.untyped_storage()
        if storage.data_ptr() not in self._storages:
            self._storages[storage.data_ptr()] = storage.nbytes()
            self._left -= storage.nbytes()
        return plain

    def _history(self, value: HistoryBuffer) -> HistoryBuffer:
        logs, counts = (
            self.value(vars(value)[name])[0] for name in ("_log_history", "_count_history")
        )
        statistics = {name: getattr(HistoryBuffer, name) for name in STATISTICS}
        limit = vars(value)["max_length"]
        if (
            not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in (logs, counts))
            or len(logs) != len(counts)
            or not isinstance(limit, int)
            or not dict.items(vars(value).get("_statistics_methods", {})) <= statistics.items()
        ):
            raise UserError("the checkpoint is damaged (a history of mmengine's)")
        return HistoryBuffer(logs, counts, limit)


def _size(parts: list[tuple[Any, int, int]]) -> tuple[int, int]:
    return 1 + sum(part[1] for part in parts), 1 + max((part[2] for part in parts), default=0)
