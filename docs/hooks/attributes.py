"""Comments that begin with ``#:`` are the docstrings of the attributes below them, for Griffe."""

from functools import cache
from pathlib import Path
from typing import Any

from griffe import Attribute, Docstring, Extension

MARK = "#:"


class AttributeComments(Extension):
    """Reads them, as Sphinx does."""

    def on_attribute_instance(self, *, attr: Attribute, **kwargs: Any) -> None:
        """Takes the comment right above an attribute over."""
        if attr.docstring is not None or attr.lineno is None:
            return
        above = lines_of(attr.filepath)[: attr.lineno - 1]
        comment: list[str] = []
        while above and above[-1].strip().startswith(MARK):
            comment.insert(0, above.pop().strip().removeprefix(MARK).strip())
        if comment:
            start = attr.lineno - len(comment)
            attr.docstring = Docstring("\n".join(comment), lineno=start, parent=attr)


@cache
def lines_of(path: Path) -> list[str]:
    """A file's lines."""
    return path.read_text(encoding="utf-8").splitlines()
