"""Reading many configs without reading the same indices for each."""

from collections.abc import Iterator
from functools import cache

import pytest
from mmengine.config import utils


@pytest.fixture(autouse=True, scope="module")
def read_indices_once() -> Iterator[None]:
    """mmengine reads a hundred files for each config that is inherited by its package's name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "load", cache(utils.load))
        yield
