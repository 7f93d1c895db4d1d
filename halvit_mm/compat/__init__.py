"""mmcv's compiled operators, served by torchvision where mmcv was installed without them.

mmcv installed from source without torch at hand is pure Python and says nothing about it: the
first ``import mmcv.ops`` then fails on ``mmcv._ext``. :func:`install` puts a module of that name in
place (see :mod:`halvit_mm.compat.mmcv_ext`). It runs when ``halvit_mm`` is imported.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec

_EXTENSION = "mmcv._ext"


def install() -> None:
    """Serves ``mmcv._ext`` from torchvision if mmcv is there and its compiled operators are not.

    Compiled operators are left untouched. Calling it again does nothing.
    """
    if _EXTENSION in sys.modules or find_spec("mmcv") is None or _is_compiled():
        return
    from . import mmcv_ext

    sys.modules[_EXTENSION] = mmcv_ext


def backend() -> str:
    """What serves mmcv's operators: ``"mmcv (compiled)"``, ``"torchvision"`` or ``"none"``."""
    served = sys.modules.get(_EXTENSION)
    if served is not None and served.__name__ == f"{__name__}.mmcv_ext":
        return "torchvision"
    return "mmcv (compiled)" if served is not None or _is_compiled() else "none"


def _is_compiled() -> bool:
    """Whether mmcv's folder holds the compiled extension.

    ``find_spec("mmcv._ext")`` would import mmcv for the answer, and OpenCV with it.
    """
    mmcv = find_spec("mmcv")
    if mmcv is None or mmcv.submodule_search_locations is None:
        return False
    return PathFinder.find_spec(_EXTENSION, mmcv.submodule_search_locations) is not None
