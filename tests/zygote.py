"""Forks processes that have the libraries imported already, which takes longest of most commands.

Each line on standard input asks for one script: a JSON object with ``argv``, ``cwd``, ``env`` and
the files ``stdout`` and ``stderr``, which grow. It is answered by two lines: the number of the
process, which is one of its own, as if the script had been started afresh; and when that has ended,
its exit status, negative for a signal.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import sys
import threading
import traceback
from pathlib import Path

LIBRARIES = (
    *("halvit_mm", "mmdet.apis", "mmdet.datasets", "mmdet.models", "mmdet.evaluation"),
    *("mmpretrain.apis", "mmpretrain.datasets", "mmpretrain.models", "mmpretrain.evaluation"),
    *("matplotlib.figure", "onnxruntime", "onnxscript", "torch._dynamo", "torch.export"),
)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some libraries greet
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.collect()
    gc.freeze()  # collections leave alone, and so shared, what is there already
    print("ready", file=answers, flush=True)
    requests = iter(sys.stdin.readline, "")
    for line in requests:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            break
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
    else:
        return
    become(**request)


def become(argv: list[str], cwd: str, env: dict[str, str], stdout: str, stderr: str) -> None:
    """Runs a script in this process, which ends with it."""
    grow = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, stdout, grow), (2, stderr, grow)):
        descriptor = os.open(path, mode)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    added = [str(Path(argv[0]).parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:1] = added
    status = 0
    try:
        if argv[0] == "-m":
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    # What an interpreter does at its end, but for taking all modules apart: that would touch, and
    # so copy, all of the memory that this process shares with its parent.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
