"""Keeps runs within this process from each other."""

from collections.abc import Iterator

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer


@pytest.fixture(autouse=True)
def own_runner_state() -> Iterator[None]:
    """A runner leaves its scope, logger and visualiser behind as the process's current ones."""
    managers = (DefaultScope, MessageHub, MMLogger, Visualizer)
    before = {manager: manager._instance_dict.copy() for manager in managers}
    yield
    for manager, instances in before.items():
        manager._instance_dict.clear()
        manager._instance_dict.update(instances)


@pytest.fixture(autouse=True, scope="module")
def quick_config_text() -> Iterator[None]:
    """mmengine formats the config several times a run, which takes longer than these runs do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))
        yield
