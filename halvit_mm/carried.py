"""Configs and tools, which the package carries with it."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def carried(name: str) -> Path:
    """What the package carries under a name: ``"configs"`` or ``"tools"``.

    An installed package has it in ``halvit_mm/.mim``, where OpenMMLab's programs look for it, and
    a clone beside ``halvit_mm``.
    """
    installed = _PACKAGE / ".mim" / name
    return (installed if installed.exists() else _PACKAGE.parent / name).resolve()
