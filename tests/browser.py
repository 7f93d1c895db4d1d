"""A real headless browser, and the page of tools/serve.py in a real process."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def chromium() -> str | None:
    """The machine's Chromium: ``$HALVIT_CHROMIUM``, or the first of the usual names."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("HALVIT_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def open_browser():
    """A headless Chromium of playwright's; the caller has made sure that there is one."""
    from playwright.sync_api import sync_playwright

    # A browser that root starts refuses to work with a sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Served:
    """A running tools/serve.py.

    Attributes:
        url: Of its page.
        process: Its process.
        folder: Where it runs.
    """

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process = process
        self.folder = log.parent
        self._log = log
        self.url = self._wait_for_url()

    def output(self) -> str:
        """All it has said so far, on both streams."""
        return self._log.read_text()

    def stop(self) -> int:
        """Presses Ctrl-C and gives the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if found := re.search(r"open (http://\S+/) in a browser", self.output()):
                return found[1]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"the server did not start:\n{self.output()}")


@contextmanager
def serve(arguments: list, folder: Path, **env: str) -> Iterator[Served]:
    """Starts tools/serve.py in ``folder`` on a free port, and ends it."""
    log = folder / "serve.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, ROOT / "tools" / "serve.py", *map(str, arguments), "--port", "0"],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **env},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Served(process, log)
    finally:
        process.kill()
        process.wait()
