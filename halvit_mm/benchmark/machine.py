"""What the figures were measured on, and with."""

import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__

_PACKAGES = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
}
#: Variables that change times and memory.
_VARIABLES = ("OMP_", "KMP_", "MKL_", "GOMP_", "MALLOC_", "LD_PRELOAD", "TORCH", "CUDA_", "PYTORCH")


def describe() -> dict[str, Any]:
    """The machine, the versions, the date and the command, for JSON."""
    variables = {
        k: v
        for k, v in os.environ.items()
        if k.startswith(_VARIABLES) and k != "TORCHINDUCTOR_CACHE_DIR"  # torch's own
    }
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", *_command()]),
        "cpu": cpu_model(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {"halvit_mm": __version__, **_versions()},
        "environment": dict(sorted(variables.items())),
    }


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _command() -> list[str]:
    program = Path(sys.argv[0])
    return [f"{program.parent.name}/{program.name}", *sys.argv[1:]]


def _versions() -> dict[str, str]:
    found = {}
    for name, distributions in _PACKAGES.items():
        for distribution in distributions:
            try:
                found[name] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    return found
