"""Starts trainings, one after the other, by forking a process that has imported what they need.

Importing takes longer than these trainings do. Each line of standard input is a JSON object: the
arguments of ``tools/train.py``, the folder to run in, and the file for its output. Each training is
answered by two lines: its process, and when it has ended, its status.
"""

import importlib
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import BinaryIO

import torch  # noqa: F401  it takes the longest
from mmengine.fileio import register_backend
from yapf.yapflib import yapf_api

from halvit_mm.engine import launch  # noqa: F401
from halvit_mm.engine.saving import WholeFilesBackend

TRAIN = Path(__file__).resolve().parent.parent / "tools/train.py"


class SlowBackend(WholeFilesBackend):
    """Takes its time to write a checkpoint, so that kills meet it."""

    def write(self, file: BinaryIO, obj: bytes) -> None:
        size = -(-len(obj) // 16)
        for start in range(0, len(obj), size):
            file.write(obj[start : start + size])
            file.flush()
            time.sleep(0.004)


def train(arguments: list[str], folder: str, output: str) -> None:
    """What a new process does."""
    os.setsid()
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    register_backend("local", SlowBackend, force=True, prefixes="")
    # mmengine formats the config for each checkpoint, which takes longer than the iterations here.
    yapf_api.FormatCode = lambda text, **_: (text, True)
    sys.argv = [str(TRAIN), *arguments]
    sys.path.insert(0, str(TRAIN.parent))
    runpy.run_path(str(TRAIN), run_name="__main__")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for what packages print when they are imported
    for package in sys.argv[1:]:
        importlib.import_module(package)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            return train(**request)
        print(process, file=answers, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main()
