"""Pickles of plain values, arrays and tensors that are not torch's files, read without their code.

mmengine writes predictions with Python's own ``pickle``, which calls whatever a file names.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import torch

from .allowlist import SAFE_GLOBALS, PickledArray, PickledDtype
from .contents import settle


def read_pickle(path: Path) -> Any:
    """The content of a pickle: plain types, numpy's arrays and numbers, tensors.

    Raises:
        UnpicklingError: There is something else in it.
        Exception: The file is damaged; of many kinds.
    """
    with path.open("rb") as file:
        try:
            value = _Unpickler(file).load()
        except UnpicklingError as error:
            # What stands in for functions refuses in torch's words.
            words, found, call = str(error).partition("Unsupported global: GLOBAL ")
            if words or not found:
                raise
            raise UnpicklingError(f"loading would run code ({call})") from None
        return settle(value, path, file.seek(0, io.SEEK_END))


def _encode(text: str, codec: str) -> bytes:
    """Stands for ``_codecs.encode``, by which old pickles hold bytes."""
    if codec != "latin1":
        raise UnpicklingError(f"Unsupported global: GLOBAL _codecs.encode(…, {codec!r:.40})")
    return text.encode(codec)


def _load_storage(content: bytes) -> Any:
    """Stands for torch's function, which would run the code in a pickle within the pickle."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


_KNOWN: dict[str, Callable] = {
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch.storage._load_from_bytes": _load_storage,
    **{entry[1]: entry[0] for entry in SAFE_GLOBALS if isinstance(entry, tuple)},
}


class _Unpickler(pickle._Unpickler):
    """Python's reader written in Python: the one in C reserves memory for any number in a file."""

    dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Callable:
        try:
            return _KNOWN[f"{module}.{name}"]
        except KeyError:
            raise UnpicklingError(f"loading would run code ({module}.{name})") from None

    def load_build(self) -> None:
        # On anything else it would set attributes, also of the functions and classes above.
        if type(self.stack[-2]) not in (PickledArray, PickledDtype):
            raise UnpicklingError(f"loading would change a {type(self.stack[-2]).__name__}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
