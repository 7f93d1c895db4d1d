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

    Python scripts run in processes that are forked from one which has the libraries imported
    (``zygote.py``), unless they are to be ``fresh``.
    """
    command = [str(part) for part in command]
    if command[0] == sys.executable and command[1].endswith(".py") and not fresh:
        return _run_forked(command[1:], cwd, env)
    with start(command, cwd, **env) as process:
        try:
            output, errors = process.communicate(timeout=500)
        finally:
            process.kill()
    return process.returncode, output, errors


def _run_forked(argv: list[str], cwd: Path, env: dict[str, str]) -> tuple[int, str, str]:
    zygote = _zygote()
    with tempfile.NamedTemporaryFile() as stdout, tempfile.NamedTemporaryFile() as stderr:
        request = dict(argv=argv, cwd=str(cwd), env=_environment(env))
        request |= dict(stdout=stdout.name, stderr=stderr.name)
        print(json.dumps(request), file=zygote.stdin, flush=True)
        status = int(zygote.stdout.readline())
        return status, *(Path(file.name).read_text() for file in (stdout, stderr))


@cache
def _zygote() -> subprocess.Popen:
    """Ends when its standard input does, with this process."""
    zygote = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        env=_environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert zygote.stdout.readline() == "ready\n", "the libraries could not be imported, see above"
    return zygote


def _environment(added: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **added}


def free_port() -> str:
    """A port on which processes of this machine can meet."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
