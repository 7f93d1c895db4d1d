"""Blocks of Markdown pages that are made from logs.

A block lies between ``<!-- table: NAME -->`` and ``<!-- end -->``, which are not shown. A name may
stand on several pages.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import whole_file

_BLOCK = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a page.

    Attributes:
        name: The table's.
        text: What stands there now.
        span: Where it begins and ends in the page, with its markers.
    """

    name: str
    text: str
    span: tuple[int, int]


def pages(root: Path) -> list[Path]:
    """The README and all pages of the documentation; what lies among the logs is none."""
    found = sorted((root / "docs").rglob("*.md"))
    return [root / "README.md", *(p for p in found if root / "docs" / "results" not in p.parents)]


def blocks(text: str) -> list[Block]:
    """The blocks of a page.

    Raises:
        UserError: A marker has no counterpart.
    """
    found = [Block(name=m[2], text=m[3], span=m.span()) for m in _BLOCK.finditer(text)]
    if not len(found) == text.count("<!-- table: ") == text.count("<!-- end -->"):
        raise UserError(
            "each <!-- table: NAME --> needs its <!-- end --> and the other way round; look for "
            f"the odd one after {found[-1].name if found else 'the beginning'}"
        )
    return found


def fill(text: str, make: Callable[[str], str]) -> str:
    """The page with each block made anew by ``make(name)``."""
    blocks(text)
    return _BLOCK.sub(lambda m: f"{m[1]}{make(m[2])}\n{m[4]}", text)


def write(page: Path, text: str) -> None:
    """Writes a page, whole or not at all."""
    with whole_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
