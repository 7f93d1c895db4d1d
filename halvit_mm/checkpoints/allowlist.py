"""What a pickled checkpoint may bring beside tensors and plain types; everything else is refused.

torch's reader with ``weights_only`` calls nothing but what is listed for it. numpy's own classes
are not listed: the state that a pickle hands to ``numpy.dtype`` says how memory is to be read. Here
are stand-ins for them that take numbers and text only, and :func:`.contents.settle` puts arrays in
the place of these.
"""

import pickletools
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from encodings import aliases, normalize_encoding
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
from mmengine.logging import HistoryBuffer

#: What mmengine's histories keep of themselves.
STATISTICS = ("min", "max", "current", "mean")
#: Codecs from bytes to bytes: repeated, each makes more of little.
_BYTE_CODECS = {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "uu_codec", "zlib_codec"}


class PickledDtype:
    """Stands for ``numpy.dtype``: booleans, numbers and text, in either order of bytes."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        dtype = np.dtype(code) if isinstance(code, str | bytes) else None
        if dtype is None or dtype.kind not in "biufSU" or dtype.fields or dtype.subdtype:
            raise UnpicklingError(f"Unsupported global: GLOBAL numpy.dtype({code!r:.40})")
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        order, size = state[1], state[5]
        if any(part is not None for part in state[2:5]):
            raise UnpicklingError("Unsupported global: GLOBAL numpy.dtype with fields")
        order = order.decode() if isinstance(order, bytes) else order
        if self.dtype.kind in "SU" and isinstance(size, int) and 0 <= size < 1_000_000:
            self.dtype = np.dtype(
                f"{self.dtype.kind}{size // (4 if self.dtype.kind == 'U' else 1)}"
            )
        self.dtype = self.dtype.newbyteorder(order if order in ("<", ">") else "=")


class PickledArray:
    """Stands for ``numpy.ndarray``.

    Attributes:
        value: The array; None until the pickle has told what is in it.
    """

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, kind.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C").copy(order="K")


def _reconstruct(kind: Any, shape: Any, code: Any) -> PickledArray:
    """Stands for numpy's function that makes the array whose state follows."""
    return PickledArray()


def _scalar(kind: PickledDtype, raw: bytes | str) -> np.generic:
    """Stands for numpy's function that makes a number of bytes."""
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    (value,) = np.frombuffer(raw, kind.dtype)
    return value


class _ConfigNode:
    """Stands for the dict of package yacs, which need not be installed; is an ordinary one."""

    def __new__(cls) -> OrderedDict:
        return OrderedDict()  # of all dicts with attributes, torch fills this kind only


def _statistic(owner: Any, name: str) -> Any:
    """Stands for ``getattr`` in pickles, of which mmengine's histories need nothing else."""
    if owner is not HistoryBuffer or name not in STATISTICS:
        raise UnpicklingError(f"Unsupported global: GLOBAL getattr({owner}, {name!r})")
    return getattr(owner, name)


#: What torch may call in addition: numbers, arrays and histories of mmengine's, and the options of
#: training codes.
SAFE_GLOBALS: list[Callable | tuple[Callable, str]] = [
    HistoryBuffer,
    (_statistic, "builtins.getattr"),
    (PickledDtype, "numpy.dtype"),
    (PickledArray, "numpy.ndarray"),
    # numpy 1 and 2
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    Namespace,
    (_ConfigNode, "yacs.config.CfgNode"),
]


def check_pickle(file: IO[bytes] | bytes) -> None:
    """Looks through a pickle's operations, without running them, for what makes much of little.

    Raises:
        UnpicklingError: It would.
        Exception: The pickle is damaged; of many kinds.
    """
    encodes, strange = False, None
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            encodes |= argument == "_codecs encode"
        elif isinstance(argument, str) and len(argument) < 100 and _is_byte_codec(argument):
            strange = argument
    if encodes and strange:
        raise UnpicklingError(f"Unsupported global: GLOBAL _codecs.encode(…, {strange!r})")


def _is_byte_codec(name: str) -> bool:
    known = normalize_encoding(name).lower()
    return aliases.aliases.get(known, known) in _BYTE_CODECS
