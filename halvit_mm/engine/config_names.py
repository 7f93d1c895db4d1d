"""Configs by the package's name, ``halvit_mm::imagenet/halvit_tiny_imagenet.py``, for mmengine.

mmengine knows such names for the packages of a table, wants a folder in each, and builds what a
config inherits in the scope of the package that it came from. This package has no scope, as its
modules are in the root registries: its configs say themselves whether they are mmdet's or
mmpretrain's.
"""

from mmengine.config import Config, utils
from mmengine.hub import hub

from ..carried import carried

_PACKAGE = "halvit_mm"
_find_base = Config._get_cfg_path
_split_name = utils._get_package_and_cfg_path


def install() -> None:
    """Makes ``_base_ = "halvit_mm::…"`` and ``mmengine.hub.get_config("halvit_mm::…")`` work.

    Other packages' names stay as they are. Calling it again does nothing.
    """
    utils.MODULE2PACKAGE.setdefault(_PACKAGE, _PACKAGE)
    Config._get_cfg_path = staticmethod(_base_path)
    hub._get_package_and_cfg_path = _package_and_path


def config_path(name: str) -> str:
    """The file of a config that is named ``package::path``.

    Raises:
        Exception: mmengine's, where there is no such package or config.
    """
    return _base_path(name, "")[0]


def _base_path(name: str, inheriting: str) -> tuple[str, str | None]:
    """The file that a config inherits, and the scope to build it in."""
    package, found, path = name.partition("::")
    if package != _PACKAGE or not found:
        return _find_base(name, inheriting)
    return str(carried("configs") / path), None


def _package_and_path(name: str) -> tuple[str, str]:
    package, found, path = name.partition("::")
    return (package, path) if package == _PACKAGE and found else _split_name(name)
