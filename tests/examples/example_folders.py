"""Examples copied elsewhere, and the commands that their pages name."""

import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from processes import run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def copied(name: str, folder: Path) -> Path:
    """A copy of an example, as its page advises."""
    return Path(shutil.copytree(EXAMPLES / name, folder / name))


def commands(page: Path) -> list[list[str]]:
    """The commands in a page's blocks of bash, as words."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.strip().splitlines()]


def execute(words: Sequence[str], folder: Path, **env: str) -> str:
    """Runs a command to its end, which must be a good one; returns all that it says."""
    assert words[0] == "python", words
    status, output, errors = run([sys.executable, *words[1:]], folder, **env)
    assert status == 0, f"{shlex.join(words)}\n{output[-2000:]}\n{errors[-3000:]}"
    return output + errors


def in_one_process(loader: str) -> list[str]:
    """Options by which images are read in the process that uses them."""
    return [f"{loader}_dataloader.{o}" for o in ("num_workers=0", "persistent_workers=False")]


def program(words: Sequence[str]) -> str:
    """The script or the command of the package that a command starts."""
    return words[3] if words[1:3] == ["-m", "halvit_mm"] else words[1]


def module(path: str) -> ModuleType:
    """A script of an example, imported."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made
