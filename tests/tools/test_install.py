"""The installer's decisions; the installation itself is what every run of the suite stands on."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
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
    monkeypatch.setattr(installer, "LINKS", venv)
    monkeypatch.setattr(installer, "step", lambda *args: pytest.fail("installed again"))
    monkeypatch.setattr(installer, "installer", lambda *args: pytest.fail("looked for uv"))
    installer.main()


def test_a_new_clone_is_linked_to_an_old_environment(installer, venv, tmp_path, monkeypatch):
    """The clone was made anew where the environment's former one was: it has no links."""
    (venv / "halvit_mm.stamp").write_text(installer.environment_key(venv / "bin" / "python"))
    monkeypatch.setattr(sys, "argv", ["install.py", str(venv)])
    monkeypatch.setattr(installer, "LINKS", tmp_path / "absent")
    monkeypatch.setattr(installer, "installer", lambda *args: ["install"])
    monkeypatch.setattr(installer, "has_matching_torch", lambda python: True)
    steps = []
    monkeypatch.setattr(installer, "step", lambda what, command: steps.append(command))
    installer.main()
    assert steps[-1] == ["install", "--no-deps", "-e", str(installer.ROOT)]


@pytest.mark.parametrize("file", ["lock.txt", "torch.txt", "build.txt"])
def test_changed_requirements_are_installed(installer, venv, tmp_path, monkeypatch, file):
    requirements = tmp_path / "requirements"
    shutil.copytree(installer.REQUIREMENTS, requirements)
    monkeypatch.setattr(installer, "REQUIREMENTS", requirements)
    before = installer.environment_key(venv / "bin" / "python")
    with (requirements / file).open("a") as text:
        text.write("another==1.0\n")
    assert installer.environment_key(venv / "bin" / "python") != before


@pytest.mark.parametrize(
    ("answer", "matching"), [("2.6.0", True), ("2.11.0+cu130", True), ("2.5.1", False), ("", False)]
)
def test_torch_is_kept_from_2_6_on(installer, tmp_path, answer, matching):
    assert installer.has_matching_torch(answering(tmp_path / "python", answer)) is matching


def test_torch_here_matches(installer):
    assert installer.has_matching_torch(sys.executable)


def test_mmcv_is_never_built_beside_torch(installer, venv, monkeypatch):
    """mmcv's build must see no torch, or it becomes a compiler's work of half an hour."""
    monkeypatch.setenv("HALVIT_INSTALLER", "pip")
    monkeypatch.setattr(installer, "step", lambda *args: None)
    command = installer.installer(venv / "bin" / "python")
    assert command[1:4] == ["-m", "pip", "install"]
    assert "--no-build-isolation" not in command


def pins(file: Path) -> dict[str, list[str]]:
    """The requirements of a file with their hashes."""
    text = file.read_text().replace("\\\n", " ")
    lines = [line.split("#")[0].split() for line in text.splitlines() if line[:1] not in ("#", " ")]
    return {
        line[0]: [word for word in line if word.startswith("--hash=sha256:")]
        for line in lines
        if line
    }


@pytest.mark.parametrize("what", ["torch", "lock", "build", "uv", "pip"])
def test_every_file_that_is_fetched_has_its_hash(root, what):
    pinned = pins(root / "requirements" / f"{what}.txt")
    assert pinned
    assert all("==" in name and hashes for name, hashes in pinned.items())


def test_tools_that_build_are_those_of_the_environment(root):
    """A second setuptools beside the pinned one would come without anybody looking at it."""
    build, lock = (pins(root / "requirements" / f"{what}.txt") for what in ("build", "lock"))
    assert {name.split("==")[0] for name in build} == {"setuptools", "wheel", "packaging", "click"}
    assert build["setuptools==81.0.0"] == lock["setuptools==81.0.0"]


def wheel(folder: Path) -> Path:
    """A package with nothing in it."""
    file = folder / "nothing_here-1.0-py3-none-any.whl"
    info = "nothing_here-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: nothing-here\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return file


@pytest.mark.parametrize("command", [["uv", "pip"], ["pip"]], ids=["uv", "pip"])
@pytest.mark.parametrize("tampered", [False, True], ids=["as pinned", "tampered with"])
def test_what_has_another_hash_is_refused(installer, tmp_path, monkeypatch, command, tampered):
    package = wheel(tmp_path)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    (tmp_path / "lock.txt").write_text(f"nothing-here==1.0 --hash=sha256:{digest}\n")
    if tampered:
        with zipfile.ZipFile(package, "a") as archive:
            archive.writestr("nothing_here.py", "raise SystemExit('tampered')")
    monkeypatch.setattr(installer, "REQUIREMENTS", tmp_path)
    pytest.importorskip(command[0], reason="this environment was made by pip alone")
    command = [
        sys.executable,
        "-m",
        *command,
        "install",
        "--no-index",
        "--find-links",
        str(tmp_path),
        "--target",
        "installed",
    ]
    run = subprocess.run(
        [*command, *installer.pinned("lock")], cwd=tmp_path, capture_output=True, text=True
    )
    if tampered:
        assert run.returncode != 0
        assert "hash" in run.stderr.lower()
    else:
        assert run.returncode == 0, run.stderr
    assert (tmp_path / "installed" / "nothing_here-1.0.dist-info").exists() is not tampered


def test_unsupported_python_is_named(installer, monkeypatch):
    monkeypatch.setattr(installer.sys, "version_info", (3, 13, 0))
    monkeypatch.setattr(installer.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"Python 3.10, 3.11 or 3.12 is needed.*PYTHON="):
        installer.find_python()
