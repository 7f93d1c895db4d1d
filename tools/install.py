#!/usr/bin/env python3
"""Makes the tested environment: a virtual environment with the pinned requirements.

usage: python tools/install.py [VENV]        (default .venv)

Needs nothing but Python 3.10-3.12 with pip. Every file that is downloaded must have the hash that
requirements/ gives it, build tools included. A second call returns at once as long as requirements/
has not changed. An existing VENV whose torch is at least 2.6 and has its matching torchvision keeps
them. Downloads and unpacks with uv where it can be had, with pip otherwise or where
HALVIT_INSTALLER=pip is set.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LINKS = ROOT / "halvit_mm/.mim"  # to configs and tools; the installation makes them, see setup.py
SUPPORTED = ((3, 10), (3, 11), (3, 12))
# The path is relative to ROOT, as the variables hold lists of paths that spaces part.
BUILD_CONSTRAINTS = dict.fromkeys(
    ("UV_BUILD_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), "requirements/build.txt"
)


def main():
    venv = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute()
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        step("making " + str(venv), [find_python(), "-m", "venv", str(venv)])
    stamp, key = venv / "halvit_mm.stamp", environment_key(python)
    if stamp.exists() and stamp.read_text() == key and LINKS.exists():
        return
    install = installer(python)
    if not has_matching_torch(python):
        step("torch and torchvision (about 5 GB with their CUDA libraries)",
             [*install, *pinned("torch")])  # fmt: skip
    # mmcv is built apart from torch and therefore as pure Python, without a compiler.
    step("pinned requirements", [*install, *pinned("lock")])
    step("halvit_mm itself", [*install, "--no-deps", "-e", str(ROOT)])
    if not has_matching_torch(python):
        fail("torch and torchvision do not fit together: remove them from " + str(venv))
    stamp.write_text(key)
    print("installed in " + str(venv), flush=True)


def find_python():
    """A supported interpreter: the one that runs this, or one on the PATH."""
    if sys.version_info[:2] in SUPPORTED:
        return sys.executable
    for major, minor in reversed(SUPPORTED):
        name = f"python{major}.{minor}"
        if shutil.which(name) and not subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL):
            return name
    fail("Python 3.10, 3.11 or 3.12 is needed: install one and pass it as PYTHON=…")


def environment_key(python):
    """Changes with the interpreter, the requirements and the place of the project."""
    version = subprocess.check_output([str(python), "-c", "import sys; print(sys.version)"])
    digest = hashlib.sha256(version + str(ROOT).encode())
    for file in ("torch.txt", "lock.txt", "build.txt"):
        digest.update((REQUIREMENTS / file).read_bytes())
    digest.update((ROOT / "setup.py").read_bytes())
    return digest.hexdigest()


def pinned(what):
    """Options that install what a file lists, nothing else and nothing of another hash."""
    return ["--no-deps", "--require-hashes", "-r", str(REQUIREMENTS / f"{what}.txt")]


def installer(python):
    """The command that installs packages into the environment."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = os.environ.get("HALVIT_INSTALLER") != "pip"
    if wanted and not subprocess.call([*pip, *pinned("uv")], stderr=subprocess.DEVNULL):
        return [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    step("pip", [*pip, *pinned("pip")])
    return pip


def has_matching_torch(python):
    """Whether torch is recent enough and torchvision's operators load beside it."""
    check = "import torch, torchvision; torch.ops.torchvision.nms; print(torch.__version__)"
    run = subprocess.run(
        [str(python), "-c", check], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    found = re.match(r"(\d+)\.(\d+)", run.stdout)
    if run.returncode or found is None:
        return False
    return tuple(map(int, found.groups())) >= (2, 6)


def step(what, command):
    print(what + " …", flush=True)
    start = time.time()
    if subprocess.call(command, cwd=ROOT, env={**os.environ, **BUILD_CONSTRAINTS}):
        fail(what + " could not be installed; the lines above say why. Try again with "
             "HALVIT_INSTALLER=pip, or check the network.")  # fmt: skip
    print(f"  {time.time() - start:.0f} s", flush=True)


def fail(message):
    sys.exit("error: " + message)


if __name__ == "__main__":
    main()
