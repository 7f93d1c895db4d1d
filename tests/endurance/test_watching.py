"""Watching commands: leaks are found, what is ended is ended, faults are told."""

import os
import sys
import time
from pathlib import Path

import pytest

from halvit_mm.endurance import watching
from halvit_mm.endurance.watching import Watch, as_data, command, trends
from halvit_mm.errors import UserError

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc"
)

#: Does one piece of work after the other, a line each, and keeps what ``leak`` says.
WORKER = """
import os, sys, tempfile, threading
kept = []
def leak(): {leak}
print("start", flush=True)
while True:
    sys.stdin.readline()
    sum(bytearray(2**20)); leak()
    print(flush=True)
"""


def watch_worker(leak: str, folder: Path, steps: int = 60) -> dict:
    """Trends per piece of work of a process that leaks so."""
    import subprocess

    with subprocess.Popen(
        [sys.executable, "-c", WORKER.format(leak=leak)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:
        try:
            process.stdout.readline()
            watch = Watch(process.pid, temporary=folder)
            for done in range(1, steps + 1):
                process.stdin.write("\n")
                process.stdout.readline()
                watch.sample(done)
        finally:
            process.kill()
    return trends(watch.samples, lambda sample: sample.done, warm_up=10)


def test_what_holds_nothing_is_flat(tmp_path):
    found = watch_worker("pass", tmp_path)
    assert abs(found["anonymous_mib"].slope) < 0.01
    for name in ("processes", "threads", "descriptors", "temporary_files"):
        assert found[name].slope == 0


@pytest.mark.parametrize(
    ("leak", "quantity", "slope"),
    [
        ("kept.append(bytearray(b'x') * 2**18)", "anonymous_mib", 0.25),
        ("kept.append(bytearray(b'x') * 2**18)", "resident_mib", 0.25),
        ("kept.append(open(os.devnull))", "descriptors", 1),
        (
            "threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "threads",
            1,
        ),
        ("os.write(tempfile.mkstemp()[0], bytes(2**16))", "temporary_files", 1),
        ("os.write(tempfile.mkstemp()[0], bytes(2**16))", "temporary_mib", 1 / 16),
    ],
)
def test_leaks_are_found(tmp_path, leak, quantity, slope):
    found = watch_worker(leak, tmp_path)[quantity]
    assert found.slope == pytest.approx(slope, rel=0.05)
    assert found.low > 0


def test_the_warm_up_does_not_count(tmp_path):
    once = "len(kept) < 8 and kept.append(bytearray(b'x') * 2**22)"
    assert abs(watch_worker(once, tmp_path)["anonymous_mib"].slope) < 0.01


def test_samples_become_columns():
    watch = Watch(os.getpid())
    for done in range(3):
        watch.sample(done)
    columns = as_data(watch.samples)
    assert columns["done"] == [0, 1, 2]
    assert {len(column) for column in columns.values()} == {3}
    assert min(columns["resident_mib"]) > 10


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    """A folder for tools to write."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setattr(watching, "carried", lambda name: tmp_path / name)
    return folder


def test_a_command_is_ended_with_the_block(tools, tmp_path):
    (tools / "endless.py").write_text("import time\nwhile True: time.sleep(0.01)\n")
    with command("endless.py", log=tmp_path / "log") as process:
        time.sleep(0.3)
        assert process.poll() is None
    assert process.poll() is not None


def test_one_that_does_not_listen_is_ended_with_its_children(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "_GRACE", 0.5)
    (tools / "deaf.py").write_text(
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    log = tmp_path / "log"
    with command("deaf.py", log=log) as process:
        while not log.read_text().strip():
            time.sleep(0.05)
    assert process.poll() is not None
    child = Path("/proc", log.read_text().strip(), "cmdline")
    end = time.monotonic() + 10
    while child.exists() and child.read_text() and time.monotonic() < end:  # a zombie has none
        time.sleep(0.01)
    assert not child.exists() or not child.read_text()


def test_a_command_that_fails_is_told(tools, tmp_path):
    (tools / "bad.py").write_text("import sys\nsys.exit(3)\n")
    with (
        pytest.raises(UserError, match=r"tools/bad\.py ended with status 3: see .*log"),
        command("bad.py", log=tmp_path / "log") as process,
    ):
        process.wait()
