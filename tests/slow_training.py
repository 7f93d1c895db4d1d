"""``tools/train.py`` that takes its time to write checkpoints, so that kills meet it."""

import os
import runpy
import sys
import time
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import register_backend
from yapf.yapflib import yapf_api

from halvit_mm.engine.saving import WholeFilesBackend

TRAIN = Path(__file__).resolve().parent.parent / "tools/train.py"


class SlowBackend(WholeFilesBackend):
    """Writes a checkpoint piece by piece."""

    def write(self, file: BinaryIO, obj: bytes) -> None:
        size = -(-len(obj) // 16)
        for start in range(0, len(obj), size):
            file.write(obj[start : start + size])
            file.flush()
            time.sleep(0.004)


if __name__ == "__main__":
    os.setsid()  # so that what loads data for it can be ended as well
    register_backend("local", SlowBackend, force=True, prefixes="")
    # mmengine formats the config for each checkpoint, which takes longer than the iterations here.
    yapf_api.FormatCode = lambda text, **_: (text, True)
    sys.argv[0] = str(TRAIN)
    sys.path.insert(0, str(TRAIN.parent))
    runpy.run_path(str(TRAIN), run_name="__main__")
