"""How long fresh interpreters take until a model is there."""

import subprocess
import sys
import time
from dataclasses import dataclass

from .group import WorkerError
from .sources import CONFIGS


@dataclass(frozen=True)
class Script:
    """Something that a fresh interpreter runs in the repository's root.

    Attributes:
        code: The program.
        requires: Packages that have to be installed.
    """

    code: str
    requires: tuple[str, ...] = ("mmengine", "mmdet")


_BUILD = """
from mmengine.registry import MODELS, DefaultScope
with DefaultScope.overwrite_default_scope(cfg.default_scope):
    MODELS.build(cfg.model)
"""

IMPORT_OURS = Script("import halvit_mm")

BUILD_OURS = Script(
    """
import halvit_mm
from mmengine.config import Config
cfg = Config.fromfile("configs/mask_rcnn_halvit_1x_coco.py")
"""
    + _BUILD
)

#: Where mmcv was installed without compiled operators mmdet does not even import. So it gets those
#: of halvit_mm.compat, without the rest of halvit_mm: an empty package takes its place.
BUILD_MMDET = Script(
    """
import sys
from importlib.util import find_spec
from types import ModuleType
package = ModuleType("halvit_mm")
package.__path__ = find_spec("halvit_mm").submodule_search_locations
sys.modules["halvit_mm"] = package
from halvit_mm import compat
compat.install()
from mmengine.hub import get_config
cfg = get_config("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py")
cfg.model.backbone.init_cfg = None
"""
    + _BUILD
)


def run_script(script: Script, environment: dict[str, str]) -> float:
    """Seconds from the start of an interpreter to its end.

    Raises:
        WorkerError: The script failed.
    """
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", script.code],
        cwd=CONFIGS.parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if process.returncode:
        lines = process.stderr.strip().splitlines()
        raise WorkerError(lines[-1] if lines else f"ended with status {process.returncode}")
    return seconds
