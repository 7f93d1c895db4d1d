"""tools/serve.py where there is nothing to serve; tests/serving/test_page.py has the page."""

import runpy
import signal
import socket
import subprocess
import sys

import pytest
from processes import run, start
from tiny_runs import detector_config, make_coco


@pytest.fixture
def tool(root, tmp_path):
    """Runs the command: status, standard output, standard error."""
    (tmp_path / "config.py").touch()
    (tmp_path / "weights.pth").touch()
    return lambda *arguments: run(
        [sys.executable, root / "tools" / "serve.py", *arguments], tmp_path
    )


def test_a_port_in_use_is_told(tool):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, output, errors = tool("config.py", "weights.pth", "--port", port)
    assert (status, output) == (2, "")
    assert errors.startswith(
        f"error: cannot listen at 127.0.0.1, port {port} (Address already in use)"
    )
    assert len(errors.splitlines()) == 1


def test_others_are_let_in_only_with_a_warning(tool):
    """And a model that does not load opens no page."""
    status, output, errors = tool("config.py", "weights.pth", "--port", "0", "--host", "0.0.0.0")
    assert (status, output) == (2, "loading config\n")
    warning, error = errors.splitlines()
    assert warning.startswith("warning: --host 0.0.0.0 lets everyone")
    assert "password" in warning
    assert error.startswith("error: ")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["config.py", "gone.pth"], "gone.pth: there is no such file"),
        (["config.py"], "config.py: its checkpoint is missing"),
        (["config.py", "weights.pth", "--port", "0", "--examples", "gone"], "no such folder"),
        (["config.py", "weights.pth", "--host", "no.such.host.invalid"], "--host"),
        (["config.py", "weights.pth", "--port", "70000"], "--port 70000"),
        (["config.py", "weights.pth", "--max-size-mb", "0"], "--max-size-mb"),
        (["config.py", "weights.pth", "--max-side", "8"], "--max-side"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    root, tmp_path, monkeypatch, capsys, arguments, said
):
    for name in ("config.py", "weights.pth"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(root / "tools")
    monkeypatch.setattr(sys, "argv", ["serve.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(root / "tools" / "serve.py"), run_name="__main__")
    output, errors = capsys.readouterr()
    assert (ended.value.code, output) == (2, "")
    assert said in errors.splitlines()[-1]


def test_termination_leaves_nothing_behind(root, tmp_path):
    config = detector_config(tmp_path / "config.py", make_coco(tmp_path / "data"))
    (tmp_path / "weights.pth").touch()
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, root / "tools" / "serve.py", config, "weights.pth", "--port", "0"]
    with start(command, tmp_path, TMPDIR=str(tmp_path / "temporary")) as process:
        assert process.stdout.readline() == "loading config\n"
        folders = list((tmp_path / "temporary").glob("halvit_mm_*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert len(folders) == 1 and not folders[0].exists()


def test_gradio_is_imported_by_the_page_alone(root):
    code = (
        "import sys, halvit_mm, halvit_mm.serving, halvit_mm.serving.server\n"
        "print(*sorted({'gradio', 'fastapi', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stdout + done.stderr
