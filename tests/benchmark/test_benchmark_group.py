"""Processes that take turns."""

import os
import signal
import time

import pytest
import torch
from tiny_sources import Tied, Tiny

from halvit_mm.benchmark import subject
from halvit_mm.benchmark.group import Worker, WorkerError, usual_allocator, worker_environment


@pytest.fixture
def worker():
    one = Worker(worker_environment(1) | {"HALVIT_OF_THE_WORKER": "yes"})
    yield one
    one.close()


def test_a_worker_keeps_its_state_and_its_environment(worker):
    assert worker.call(os.getpid) == worker.turn(os.getpid) != os.getpid()
    assert worker.call(os.getenv, "OMP_NUM_THREADS") == "1"
    assert worker.call(os.getenv, "HALVIT_OF_THE_WORKER") == "yes"
    assert "HALVIT_OF_THE_WORKER" not in os.environ
    worker.call(os.umask, 0o027)
    assert worker.call(os.umask, 0o022) == 0o027


def test_the_allocator_is_the_usual_one_if_asked(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "17179869184")
    one = Worker(usual_allocator())
    try:
        assert one.call(os.getenv, "MALLOC_TRIM_THRESHOLD_") is None
    finally:
        one.close()
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "17179869184"


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_are_pinned(worker, threads):
    worker.call(subject.load, Tiny(Tied), threads)
    assert worker.call(torch.get_num_threads) == threads


def test_an_error_is_one_sentence_and_the_worker_lives_on(worker):
    with pytest.raises(WorkerError, match=r"^ValueError: invalid literal for int.*'x'$"):
        worker.call(int, "x")
    assert worker.call(int, "5") == 5


def test_a_process_that_ends_is_told(worker):
    with pytest.raises(WorkerError, match="ended with status 7"):
        worker.call(os._exit, 7)
    with pytest.raises(WorkerError, match="ended with status 7"):
        worker.call(os.getpid)


def test_a_process_killed_for_memory_is_told(worker):
    os.kill(worker.call(os.getpid), signal.SIGKILL)
    with pytest.raises(WorkerError, match="memory ran out"):
        worker.call(os.getpid)


def test_ctrl_c_leaves_it_to_the_parent(worker):
    os.kill(worker.call(os.getpid), signal.SIGINT)
    assert worker.call(int, "5") == 5


def test_closing_ends_what_runs():
    one = Worker({})
    pid = one.call(os.getpid)
    one.send(time.sleep, 600)
    one.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
