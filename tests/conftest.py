"""Fixtures and settings for the whole suite."""

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Each worker has a core. Threads beyond that wait for each other busily: tiny trainings that take a
# second take minutes.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of larger real data sets that ``$HALVIT_TEST_DATA`` names."""
    folder = os.environ.get("HALVIT_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: set HALVIT_TEST_DATA to the folder of the data sets")
    return Path(folder)


@pytest.fixture
def record_outcome(request: pytest.FixtureRequest) -> Callable[[str, str, dict], None]:
    """Notes what a test measured, under a name in a file of ``--record``, if that is given."""

    def note(file: str, name: str, measured: dict) -> None:
        folder = request.config.getoption("--record")
        if folder is None:
            return
        path = Path(folder) / f"{file}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        content[name] = {**measured, "test": request.node.nodeid, "date": f"{date.today()}"}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")

    return note


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked `full` as well")
    parser.addoption("--record", metavar="FOLDER", help="write what was measured as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Properties are tried on the same few examples each time, and with ``--full`` on many new."""
    # Shells have what they start in the background ignore Ctrl-C, and so would what tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    common = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    settings.register_profile("quick", max_examples=12, derandomize=True, **common)
    settings.register_profile("full", max_examples=150, print_blob=True, **common)
    settings.load_profile("full" if config.getoption("--full") else "quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    skip = pytest.mark.skip(reason="slow: runs under `make test-full`")
    for item in items:
        if "full" in item.keywords:
            item.add_marker(skip)
