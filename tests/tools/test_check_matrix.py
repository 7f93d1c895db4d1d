"""tools/check_matrix.py, the results that it wrote, and the page that shows them."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from processes import run


@pytest.fixture
def matrix(root: Path, monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_matrix", root / "tools/check_matrix.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check_matrix", module)  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def test_page_shows_the_results(root: Path, matrix: ModuleType):
    assert f"\n{matrix.table(matrix.RESULTS)}\n" in (root / "docs/install.md").read_text()


def test_combinations_came_out_as_they_say(matrix: ModuleType):
    files = sorted(matrix.RESULTS.glob("*.json"))
    assert len(files) > 5
    for file in files:
        name, text = file.stem, file.read_text()
        combination = matrix.COMBINATIONS[name]
        result = json.loads(text)
        assert result["name"] == name
        assert tuple(result["commands"]) == combination.commands
        assert result["installer"] == combination.installer
        assert result["python"].startswith(combination.python)
        assert tuple(matrix.failed(result["steps"])) == combination.broken
        assert not re.search(r"/(root|tmp|home|work|opt)/", text), f"{name}: a folder of a machine"


def test_page_has_the_commands_that_were_tried(root: Path, matrix: ModuleType):
    page = (root / "docs/install.md").read_text()
    tried = {command for c in matrix.COMBINATIONS.values() for command in c.commands}
    missing = [command for command in tried if command not in page]
    assert not missing


def test_what_was_not_tried_is_told(matrix: ModuleType, tmp_path: Path):
    result = matrix.RESULTS / "pinned-py3.11.json"
    (tmp_path / result.name).write_text(result.read_text())
    rows = matrix.table(tmp_path).splitlines()[2:]
    assert len(rows) == len(matrix.COMBINATIONS)
    assert sum("not tried yet" in row for row in rows) == len(rows) - 1
    assert len({row.count("|") for row in matrix.table(tmp_path).splitlines()}) == 1


@pytest.mark.parametrize(
    ("name", "wrong", "outcome"),
    [
        ("pinned-py3.11", (), "works, ONNX too"),
        ("pinned-py3.11", ("install",), "**does not install**"),
        ("pinned-py3.11", ("train", "onnx"), "**fails**: train, onnx"),
        ("onedl-lowest", ("onnx",), "works, except for onnx"),
        ("onedl-lowest", ("train",), "**fails**: train"),
    ],
)
def test_outcomes(matrix: ModuleType, name: str, wrong: tuple[str, ...], outcome: str):
    steps = {step: {} for step in ("install", "train", "onnx")} | {w: dict(error="") for w in wrong}
    row = matrix.table_row(dict(name=name, installer="uv", python="3", date="", steps=steps))
    assert outcome in row


def test_supported_pythons_have_a_combination(root: Path, matrix: ModuleType):
    lowest, end = re.search(
        r'python_requires=">=3\.(\d+),<3\.(\d+)"', (root / "setup.py").read_text()
    ).groups()
    pythons = {c.python for c in matrix.COMBINATIONS.values() if not c.broken}
    assert {f"3.{minor}" for minor in range(int(lowest), int(end))} <= pythons


def test_plan_names_what_is_there(matrix: ModuleType):
    steps = matrix.plan(onnx=True)
    words = [word for _, _, command in steps for word in command]
    files = [Path(word) for word in words if word.endswith(".py")]
    assert len(files) > 15
    assert all(file.is_file() for file in files)
    names = [name for name, _, _ in steps]
    assert names[0] == "check_env"
    assert all(before in names[: names.index(name)] for name, before, _ in steps if before)


def test_steps_on_a_failed_one_are_left_out(matrix: ModuleType, tmp_path: Path, monkeypatch):
    def fail_training(command, cwd, folder):
        failed = str(matrix.DETECTOR) in command and "--work-dir=run" in command
        return dict(seconds=0.1, **({"error": "no"} if failed else {}))

    monkeypatch.setattr(matrix, "run", fail_training)
    monkeypatch.setattr(matrix, "describe", lambda python: {"versions": {"onnxscript": "1"}})
    steps = matrix.try_environment(Path(sys.executable), tmp_path)
    assert matrix.failed(steps) == ["train"]
    assert not steps.keys() & {"resume", "test", "onnx"}
    assert "classifier" in steps


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        ("one\ntwo\n\n\x1b[31mthree\x1b[0m in {folder}/x", "one\ntwo\nthree in ./x"),
        ("  served by     nobody\nproblem: no torch\nothers", "problem: no torch"),
        ("Downloading /a\nERROR: another Python\n", "ERROR: another Python"),
        ("", "status 3"),
    ],
)
def test_what_a_failure_says(matrix: ModuleType, tmp_path: Path, printed: str, kept: str):
    code = f"import sys; print({printed.format(folder=tmp_path)!r}); sys.exit(3)"
    step = matrix.run([sys.executable, "-c", code], tmp_path, tmp_path)
    assert step["error"] == kept
    assert 0 <= step["seconds"] < 60


def test_what_worked_has_no_error(matrix: ModuleType, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HALVIT_DIGITS_ROOT", "elsewhere")
    code = (
        "import os; print('  served by     torchvision')\n"
        "assert os.environ['MMCV_WITH_OPS'] == '0' and 'HALVIT_DIGITS_ROOT' not in os.environ"
    )
    step = matrix.run([sys.executable, "-c", code], tmp_path, tmp_path, {"MMCV_WITH_OPS": "0"})
    assert 0 <= step.pop("seconds") < 60
    assert step == {"operators": "torchvision"}


def test_installation_stops_at_the_first_failure(matrix: ModuleType, tmp_path: Path, monkeypatch):
    started = []

    def note(command, cwd, folder, variables):
        started.append(([str(word) for word in command], variables))
        return dict(seconds=1.0, **({"error": "no such release"} if len(started) == 2 else {}))

    python = tmp_path / "venv/bin/python"
    commands = ("pip install a", 'X=1 pip install "b<2"', "pip install c")
    monkeypatch.setattr(matrix, "run", note)
    monkeypatch.setattr(matrix, "find_interpreter", lambda version: sys.executable)
    monkeypatch.setattr(matrix.subprocess, "run", lambda *args, **kwargs: None)
    steps = matrix.install(matrix.Combination("3.11", commands, "pip"), python, tmp_path)
    assert steps == {"install": dict(seconds=2.0, error="no such release")}
    assert started[0] == ([str(python), "-m", "pip", "install", "a"], {})
    assert started[1] == ([str(python), "-m", "pip", "install", "b<2"], {"X": "1"})
    assert len(started) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no-such"], "there is no no-such; choose from pinned-py3.10"),
        (["--env", "nowhere/python"], "--env nowhere/python: there is no such interpreter"),
    ],
)
def test_mistakes_are_told(root: Path, tmp_path: Path, arguments: list[str], sentence: str):
    command = [sys.executable, root / "tools/check_matrix.py", *arguments]
    status, output, errors = run(command, tmp_path)
    assert (status, output) == (2, "")
    assert sentence in errors


@pytest.mark.full
def test_this_environment_works(root: Path, tmp_path: Path):
    command = [sys.executable, root / "tools/check_matrix.py", "--env", sys.executable]
    status, output, _ = run(command, tmp_path, fresh=True)
    assert status == 0, output
    assert output.count(" ok ") == len(("check_env", "configs", "train", "resume")) + 5
