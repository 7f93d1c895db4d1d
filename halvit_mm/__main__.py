"""Runs the commands of ``tools/`` from any folder: ``python -m halvit_mm train CONFIG``."""

import ast
import difflib
import runpy
import sys
from pathlib import Path

from halvit_mm.carried import carried
from halvit_mm.cli import run
from halvit_mm.errors import UserError

USAGE = """usage: python -m halvit_mm COMMAND …

COMMAND --help says what a command takes. A config is a file, or named by its package:
halvit_mm::mask_rcnn_halvit_1x_coco.py, halvit_mm::imagenet/halvit_tiny_imagenet.py.
"""


def main() -> None:
    """Prints the commands, or runs the one that the first argument names."""
    tools = {path.stem: path for path in sorted(carried("tools").glob("[!_]*.py"))}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(USAGE)
        width = max(map(len, tools))
        for tool, path in tools.items():
            print(f"  {tool:{width}}  {_summary(path)}")
        return
    tool = name.replace("-", "_")
    if tool not in tools:
        close = difflib.get_close_matches(tool, tools, n=1)
        hint = f"did you mean {close[0]}?" if close else "--help lists them"
        raise UserError(f"{name}: there is no such command; {hint}")
    sys.argv[:2] = [str(tools[tool])]
    sys.path.insert(0, str(tools[tool].parent))  # as for any script, for what stands beside it
    runpy.run_path(str(tools[tool]), run_name="__main__")


def _summary(tool: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(tool.read_text(encoding="utf-8"))) or "").split("\n")[0]


if __name__ == "__main__":
    run(main)
