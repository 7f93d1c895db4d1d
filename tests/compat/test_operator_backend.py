"""Which module serves mmcv's operators, tried in fresh processes."""

import os
import subprocess
import sys
from pathlib import Path

# Keeps halvit_mm from loading the rest of itself, with all of mmengine (and torchvision) behind it.
BYPASS = "import sys; sys.modules['mmengine'] = None\n"


def python(code: str, *paths: Path) -> str:
    """What a fresh process prints that runs ``code`` with ``paths`` first on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def make_mmcv(folder: Path, *, compiled: bool) -> Path:
    """A package called mmcv in ``folder``, with or without an extension that says who it is."""
    package = folder / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    if compiled:
        (package / "_ext.py").write_text("origin = 'compiled'\n")
    return folder


def test_compiled_operators_are_left_alone(root: Path, tmp_path: Path):
    code = """
from halvit_mm import compat
compat.install()
print(compat.backend())
import mmcv._ext
print(mmcv._ext.origin)
print(compat.backend())
"""
    output = python(BYPASS + code, make_mmcv(tmp_path, compiled=True), root)
    assert output.splitlines() == ["mmcv (compiled)", "compiled", "mmcv (compiled)"]


def test_missing_operators_are_served(root: Path, tmp_path: Path):
    code = """
from importlib import import_module
from halvit_mm import compat
print(compat.backend())
compat.install()
print(compat.backend())
served = import_module("mmcv._ext")
compat.install()
print(served is import_module("mmcv._ext"), served.nms.__module__)
"""
    output = python(BYPASS + code, make_mmcv(tmp_path, compiled=False), root)
    assert output.splitlines() == ["none", "torchvision", "True halvit_mm.compat.mmcv_ext"]


def test_nothing_is_served_without_mmcv(root: Path):
    code = """
sys.modules["mmcv"] = None  # as if it were not installed
from halvit_mm import compat
compat.install()
print(compat.backend(), "mmcv._ext" in sys.modules)
"""
    assert python(BYPASS + code, root) == "none False"


def test_importing_the_package_leaves_the_big_ones_alone(root: Path):
    code = """
import sys
import halvit_mm
print([name for name in ("mmcv", "mmdet", "mmpretrain") if name in sys.modules])
"""
    assert python(code, root) == "[]"


def test_a_torchvision_that_does_not_load(root: Path, tmp_path: Path):
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    code = """
import torch
from halvit_mm.compat import mmcv_ext
try:
    mmcv_ext.nms(torch.zeros(1, 4), torch.zeros(1), 0.5, 0)
except mmcv_ext.OperatorUnavailable as error:
    print(error)
"""
    message = python(BYPASS + code, tmp_path, root)
    assert "torchvision::nms does not exist" in message
    assert "install the release of torchvision that belongs to torch" in message
