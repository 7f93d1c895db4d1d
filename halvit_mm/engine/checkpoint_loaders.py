"""What mmengine reads checkpoints with, taught the format of safetensors.

Registering replaces mmengine's loader of local files, so that its runner, its ``Pretrained``
initialiser and the tools of mmdet and mmpretrain all take such files.
"""

from pathlib import Path
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

from ..checkpoints.reading import read_checkpoint
from ..checkpoints.safetensors_format import is_safetensors


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_file(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint of any form; one of safetensors always to the CPU.

    Raises:
        UserError: A file of safetensors is damaged.
        FileNotFoundError: There is no file.
    """
    path = Path(filename).expanduser()
    if path.is_file() and is_safetensors(path):
        return read_checkpoint(path)
    return load_from_local(filename, map_location)


# mmengine matches its prefixes as patterns, the last of the alphabet first, and "?" comes behind
# the ":" of its own "https://".
@CheckpointLoader.register_scheme(prefixes=r"https?://[^?#]*\.safetensors")
def load_from_http_safetensors(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Downloads a file of safetensors and reads it to the CPU; see :func:`read_checkpoint`."""
    return read_checkpoint(filename)
