"""tools/check_env.py run as a process, in this environment and in ones with a fault."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def check_env(root: Path, *options: str, path: Path | None = None) -> tuple[int, list[str]]:
    """The status and the lines of a run from the file system's root, with ``path`` put first."""
    environment = {**os.environ, "PYTHONPATH": str(path or ""), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.run(
        [sys.executable, root / "tools/check_env.py", *options],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        cwd=root.anchor,
        timeout=500,
    )
    assert "Traceback" not in process.stderr, process.stderr
    return process.returncode, process.stdout.splitlines()


def problems(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("problem: ")]


def hide(folder: Path, *packages: str) -> Path:
    """A folder that, put on the path, makes ``packages`` look as if they were not installed."""
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({packages!r}))\n"
    )
    return folder


def break_package(folder: Path, package: str, error: str) -> Path:
    """A folder that, put on the path, makes the import of ``package`` raise ``error``."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(f"raise {error}\n")
    return folder


def add_distribution(folder: Path, name: str, provides: str, requires: str = "") -> Path:
    """A folder that, put on the path, makes ``name`` look installed and to provide a package."""
    info = folder / f"{name}-0.0.1.dist-info"
    info.mkdir()
    requirement = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n{requirement}"
    )
    (info / "top_level.txt").write_text(f"{provides}\n")
    return folder


def test_everything_works_here(root: Path):
    status, lines = check_env(root, "--device", "cpu")
    assert status == 0, lines
    assert lines[-1] == "everything works"
    assert not any("open files you trust only" in line for line in lines)
    text = "\n".join(lines)
    for package in ("torchvision", "mmengine", "mmcv", "mmdet", "mmpretrain", "numpy", "cv2"):
        assert f"  {package:<14}" in text
    assert f"  torch         {torch.__version__}\n" in text
    steps = [line.split() for line in lines if " ok " in line]
    assert [step[0] for step in steps] == ["nms", "build", "forward,", "backward", "predict"]
    assert all(float(step[-2]) >= 0 and step[-1] == "s" for step in steps)


def test_old_torch_is_no_reader_of_strangers_files(root: Path, tmp_path: Path):
    """A torch that says it is older; without mmcv no detector is tried, which takes longest."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, torch.version\n"
        "sys.modules['mmcv'] = None\n"
        "torch.version.__version__ = torch.__version__ = '2.9.1'\n"
    )
    _, lines = check_env(root, path=tmp_path)
    assert any("open files you trust only" in line for line in lines)


def test_missing_package(root: Path, tmp_path: Path):
    status, lines = check_env(root, path=hide(tmp_path, "mmcv"))
    assert status == 1
    assert problems(lines) == ["problem: mmcv is not installed; run `make install`"]
    assert "  mmpretrain    not usable without mmcv" in lines


def test_missing_torch(root: Path, tmp_path: Path):
    status, lines = check_env(root, path=hide(tmp_path, "torch"))
    assert status == 1
    assert problems(lines) == ["problem: torch is not installed; run `make install`"]
    assert any(line.startswith("  numpy ") and "FAILED" not in line for line in lines)
    assert "  halvit_mm     not usable without torch" in lines


def test_torchvision_of_another_torch(root: Path, tmp_path: Path):
    error = "RuntimeError('operator torchvision::nms does not exist')"
    status, lines = check_env(root, path=break_package(tmp_path, "torchvision", error))
    assert status == 1
    assert problems(lines) == [
        "problem: torchvision does not import (RuntimeError: operator torchvision::nms does not "
        "exist); run `make install`, or install the release that belongs to torch "
        f"{torch.__version__}"
    ]


def test_one_line_for_each_problem(root: Path, tmp_path: Path):
    add_distribution(tmp_path, "torchvision", "torchvision", requires="torch (==1.2.3)")
    add_distribution(tmp_path, "another-mmcv", "mmcv")
    break_package(tmp_path, "pycocotools", "ImportError('first line\\nsecond line')")
    status, lines = check_env(root, path=tmp_path)
    assert status == 1
    mismatch, broken, double = problems(lines)
    assert f"belongs to torch 1.2.3, not {torch.__version__}" in mismatch
    assert broken.startswith("problem: pycocotools does not import (ImportError: first line);")
    assert "another-mmcv and " in double and "overwrite each other's files" in double


@pytest.mark.full
def test_step_that_fails(root: Path):
    status, lines = check_env(root, "--device", "nonsense")
    assert status == 1
    (problem,) = problems(lines)
    assert problem.startswith("problem: nms on nonsense: RuntimeError: ")
