"""Commands as whole processes."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path


def start(command: list, cwd: Path, **env: str) -> subprocess.Popen:
    """Starts a command with ``env`` added to the environment."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=_environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: list, cwd: Path, *, fresh: bool = False, **env: str) -> tuple[int, str, str]:
    """Runs a command to its end: status, standard output, standard error.

    Python scripts and ``python -m halvit_mm`` run in processes that are forked from one which has
    the libraries imported (``zygote.py``), unless they are to be ``fresh``.
    """
    command = [str(part) for part in command]
    is_program = command[1].endswith(".py") or command[1:3] == ["-m", "halvit_mm"]
    if command[0] == sys.executable and is_program and not fresh:
        return _run_forked(command[1:], cwd, env)
    with start(command, cwd, **env) as process:
        try:
            output, errors = process.communicate(timeout=500)
        finally:
            process.kill()
    return process.returncode, output, errors


def _run_forked(argv: list[str], cwd: Path, env: dict[str, str]) -> tuple[int, str, str]:
    with tempfile.NamedTemporaryFile() as stdout, tempfile.NamedTemporaryFile() as stderr:
        files = Path(stdout.name), Path(stderr.name)
        zygote().start(argv, cwd, *files, **env)
        return zygote().wait(), *(file.read_text() for file in files)


class Zygote:
    """``zygote.py``, which runs one script at a time; it ends with this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            env=_environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._process.stdout.readline() == "ready\n"
        assert ready, "the libraries could not be imported, see above"

    def start(self, argv: list[str], cwd: Path, stdout: Path, stderr: Path, **env: str) -> int:
        """Starts a script, whose output is added to two files; returns its process."""
        request = dict(argv=argv, cwd=str(cwd), env=_environment(env))
        request |= dict(stdout=str(stdout), stderr=str(stderr))
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def wait(self) -> int:
        """The exit status of what was started."""
        return int(self._process.stdout.readline())


@cache
def zygote() -> Zygote:
    """The one of this process."""
    return Zygote()


def _environment(added: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **added}


def free_port() -> str:
    """A port on which processes of this machine can meet."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
