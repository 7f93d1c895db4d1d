"""The code blocks of the pages that users read, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[^\s`{]*)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
#: `# my_config.py` as the first line of a Python block: the block is a file of this name.
_FILE_NAME = re.compile(r"# (?P<name>[\w./-]+\.py)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block: ``line`` is that of its first line of ``text``, counted from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """Name of the file that a Python block is, by the comment in its first line."""
        found = _FILE_NAME.match(self.text)
        return found["name"] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A simple command of a shell block; with pipes or redirections, all of its line."""

    line: int
    text: str
    words: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    piped: bool = False


def pages(root: Path) -> list[Path]:
    """README, the guide for contributors, and the documentation.

    The pages of ``examples``, which are to be copied elsewhere, are executed by
    ``tests/examples``.
    """
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted(root.glob("docs/**/*.md"))]


def blocks(page: Path, root: Path) -> list[Block]:
    """The fenced blocks of a page, also those within lists and tabs.

    Raises:
        ValueError: A fence is not closed.
    """
    found, opened = [], None
    name = page.relative_to(root).as_posix()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if opened is None:
            opened = _FENCE.match(line)
            start, lines = number + 1, []
        elif line.strip() == opened["fence"]:
            found.append(Block(name, start, opened["language"], "\n".join(lines)))
            opened = None
        else:
            lines.append(line.removeprefix(opened["indent"]))
    if opened is not None:
        raise ValueError(f"{name}:{start - 1}: the block has no end")
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a shell block, without comments; in a console block those after ``$``.

    Raises:
        ValueError: A quotation has no end.
    """
    found = []
    for number, line in _whole_lines(block):
        words = _split(line)
        if set("|<>&()") & {word[0] for word in words if word and word != "&&"} or "$(" in line:
            found.append(_command(number, words, line, piped=True))
            continue
        simple: list[str] = []
        for word in [*words, ";"]:
            if word not in (";", "&&"):
                simple.append(word)
            elif simple:
                found.append(_command(number, simple, shlex.join(simple)))
                simple = []
    return found


def _whole_lines(block: Block) -> Iterator[tuple[int, str]]:
    """Lines that end in a backslash or ``&&`` joined with the next, and the number of the first."""
    whole = ""
    for number, line in enumerate(block.text.splitlines(), block.line):
        if block.language == "console" and not whole:
            if not line.startswith("$ "):
                continue  # what the command prints
            line = line[2:]
        start = start if whole else number  # noqa: F821
        whole += line.removesuffix("\\") + " "
        if not line.endswith(("\\", "&&")):
            if whole.strip():
                yield start, whole.strip()
            whole = ""
    if whole.strip():
        raise ValueError(f"{block.page}:{start}: the command goes on behind the block's end")


def _split(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def _command(line: int, words: list[str], text: str, *, piped: bool = False) -> Command:
    env = {}
    while words and _ASSIGNMENT.match(words[0]):
        name, _, value = words[0].partition("=")
        env[name], words = value, words[1:]
    return Command(line, text, tuple(words), env, piped)
