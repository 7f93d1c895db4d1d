"""A group of processes, one for each model, that take turns.

Each process keeps what it made between its turns, and does nothing while others have theirs.
"""

import logging
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

#: Rest between turns, in seconds, in which the threads of the process before go to sleep: OpenMP
#: lets them wait for more work for some milliseconds.
_REST = 0.02


class WorkerError(Exception):
    """What went wrong in a worker, in one sentence."""


class Worker:
    """A process that calls functions one after the other and keeps its global state.

    Args:
        environment: Variables for the process beside those of this one; None takes one away.
    """

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        context: SpawnContext = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        with _environment(environment), _deaf_to_ctrl_c():
            self._process.start()
        theirs.close()

    def send(self, function: Callable, *args: Any) -> None:
        """Starts a call of a function that the process can import."""
        try:
            self._pipe.send((function, args))
        except BrokenPipeError as error:
            raise WorkerError(self._end()) from error

    def receive(self) -> Any:
        """Waits for the result of the call.

        Raises:
            WorkerError: The function raised, or the process ended.
        """
        try:
            fault, value = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            raise WorkerError(self._end()) from error
        if fault:
            raise WorkerError(fault)
        return value

    def call(self, function: Callable, *args: Any) -> Any:
        """Calls a function and waits for its result."""
        self.send(function, *args)
        return self.receive()

    def turn(self, function: Callable, *args: Any) -> Any:
        """Calls a function once the process that had its turn before is at rest."""
        time.sleep(_REST)
        return self.call(function, *args)

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _end(self) -> str:
        self._process.join()
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return "the process was killed, most likely because memory ran out"
        return f"the process ended with status {code}"


def worker_environment(threads: int) -> dict[str, str]:
    """Variables that pin the number of threads and let waiting threads sleep."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # For OpenMP of LLVM and Intel, whose threads would spin for 200 ms.
        "KMP_BLOCKTIME": "1",
        # Advice of DistributedDataParallel, which is there to be counted, not to be fast.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


def usual_allocator() -> dict[str, None]:
    """Takes away what tunes glibc's allocator, if anything does.

    Such settings make memory quick to get by keeping it, so that a process holds more than it uses.
    """
    return {name: None for name in os.environ if name.startswith("MALLOC_")}


@contextmanager
def _environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Sets and takes away variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile never see SIGINT; this one gets it afterwards.

    Ctrl-C is for the parent, which ends them. They would be struck while they still import.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is not None:
            os.environ[name] = value
        elif name in os.environ:
            del os.environ[name]


def _serve(pipe: Connection) -> None:
    """Calls what comes through the pipe until its other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this
    warnings.simplefilter("ignore")
    # mmengine tells of each parameter how it was initialised, mmdet that it was not pretrained.
    logging.disable(logging.WARNING)
    while True:
        try:
            function, args = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            answer = None, function(*args)
        except Exception as error:  # whatever it is, it is told in the row of the measurement
            answer = _sentence(error), None
        pipe.send(answer)


def _sentence(error: Exception) -> str:
    """An exception in one line."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    name = type(error).__name__
    return name if not first else first[:300] if name == "UserError" else f"{name}: {first[:300]}"
