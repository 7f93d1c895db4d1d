"""What processes hold, against processes that hold a known amount."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from halvit_mm.endurance.usage import usage

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc"
)

MIB = 2**20


@contextmanager
def process(code: str) -> Iterator[int]:
    """Runs Python code that prints a line when it is ready, and then waits."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        try:
            child.stdout.readline()
            yield child.pid
        finally:
            child.kill()


def test_memory_is_counted_in_bytes():
    with process("") as pid:
        before = usage(pid)
    with process(f"held = bytearray(b'x') * {64 * MIB}") as pid:
        after = usage(pid)
    assert after.resident - before.resident == pytest.approx(64 * MIB, rel=0.05)
    assert after.anonymous - before.anonymous == pytest.approx(64 * MIB, rel=0.05)
    assert (after.processes, after.children) == (1, 0)


def test_pages_that_processes_share_count_once():
    code = f"""
import os
held = bytearray(b'x') * {64 * MIB}
for _ in range(2):
    if os.fork() == 0:
        import time; time.sleep(60); os._exit(0)
"""
    with process("") as pid:
        before = usage(pid)
    with process(code) as pid:
        after = usage(pid)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), 9)
    assert after.processes == 3
    assert after.children > 2 * 64 * MIB
    assert after.anonymous - before.anonymous < 80 * MIB


def test_threads_and_open_files_are_counted():
    code = """
import os, threading
files = [open(os.devnull) for _ in range(7)]
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
    with process("") as pid:
        before = usage(pid)
    with process(code) as pid:
        after = usage(pid)
    assert after.descriptors - before.descriptors == 7
    assert after.threads - before.threads == 3


def test_a_process_that_has_ended_is_told():
    with process("") as pid:
        pass
    with pytest.raises(ProcessLookupError):
        usage(pid)
