"""Commands as whole processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def start(command: list, cwd: Path, **env: str) -> subprocess.Popen:
    """Starts a command with ``env`` added to the environment."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(command: list, cwd: Path, **env: str) -> tuple[int, str, str]:
    """Runs a command to its end: status, standard output, standard error."""
    with start(command, cwd, **env) as process:
        try:
            output, errors = process.communicate(timeout=500)
        finally:
            process.kill()
    return process.returncode, output, errors


def free_port() -> str:
    """A port on which processes of this machine can meet."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
