"""Fixtures and settings for the whole suite."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

torch.set_num_threads(2)


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked `full` as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    skip = pytest.mark.skip(reason="slow: runs under `make test-full`")
    for item in items:
        if "full" in item.keywords:
            item.add_marker(skip)
