"""The installer's decisions; the installation itself is what every run of the suite stands on."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def installer(root) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", root / "tools" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def venv(tmp_path) -> Path:
    """Something with the outer form of a virtual environment of this interpreter."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path / "venv"


def answering(path: Path, answer: str) -> Path:
    """An interpreter that prints ``answer`` whatever it is asked."""
    path.write_text(f"#!/bin/sh\necho {answer}\n")
    path.chmod(0o755)
    return path


def test_second_call_returns_at_once(installer, venv, monkeypatch):
    python = venv / "bin" / "python"
    (venv / "halvit_mm.stamp").write_text(installer.environment_key(python))
    monkeypatch.setattr(sys, "argv", ["install.py", str(venv)])
    monkeypatch.setattr(installer, "step", lambda *args: pytest.fail("installed again"))
    monkeypatch.setattr(installer, "installer", lambda *args: pytest.fail("looked for uv"))
    installer.main()


@pytest.mark.parametrize("file", ["lock.txt", "torch.txt"])
def test_changed_requirements_are_installed(installer, venv, tmp_path, monkeypatch, file):
    requirements = tmp_path / "requirements"
    shutil.copytree(installer.REQUIREMENTS, requirements)
    monkeypatch.setattr(installer, "REQUIREMENTS", requirements)
    before = installer.environment_key(venv / "bin" / "python")
    with (requirements / file).open("a") as text:
        text.write("another==1.0\n")
    assert installer.environment_key(venv / "bin" / "python") != before


@pytest.mark.parametrize(
    ("answer", "matching"), [("2.4.1", True), ("2.11.0+cu130", True), ("2.3.0", False), ("", False)]
)
def test_torch_is_kept_from_2_4_on(installer, tmp_path, answer, matching):
    assert installer.has_matching_torch(answering(tmp_path / "python", answer)) is matching


def test_torch_here_matches(installer):
    assert installer.has_matching_torch(sys.executable)


def test_mmcv_is_never_built_beside_torch(installer, venv, monkeypatch):
    """mmcv's build must see no torch, or it becomes a compiler's work of half an hour."""
    monkeypatch.setenv("HALVIT_INSTALLER", "pip")
    command = installer.installer(venv / "bin" / "python")
    assert command[1:4] == ["-m", "pip", "install"]
    assert "--no-build-isolation" not in command


def test_unsupported_python_is_named(installer, monkeypatch):
    monkeypatch.setattr(installer.sys, "version_info", (3, 13, 0))
    monkeypatch.setattr(installer.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"Python 3.10, 3.11 or 3.12 is needed.*PYTHON="):
        installer.find_python()
