"""What each tool prints by ``--help``, where ``docs/tools.md`` asks for it.

The parsers are the tools' own: each one's ``main`` runs until it parses its arguments. A script of
the shell, and a tool without options, is shown by the comment or docstring that it begins with.
"""

import argparse
import ast
import logging
import os
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"^<!-- help: (?P<tool>\S+) -->$", re.MULTILINE)
WIDTH = 84

log = logging.getLogger("mkdocs.hooks")


class Parsing(Exception):
    """A tool has come to its arguments.

    Attributes:
        parser: What would parse them.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str | None:
    """Puts the help in the place of the markers, and warns of tools that have none."""
    if page.file.src_uri != "tools.md":
        return None
    shown = {marker["tool"] for marker in MARKER.finditer(markdown)}
    for tool in sorted(tools() - shown):
        log.warning(f"docs/tools.md: {tool} has no place; add a line <!-- help: {tool} -->")
    return MARKER.sub(lambda marker: f"```text\n{help_of(ROOT / marker['tool'])}\n```", markdown)


def tools() -> set[str]:
    """The commands of ``tools/``; names that begin with an underscore are none."""
    return {f"tools/{file.name}" for file in (ROOT / "tools").glob("[!_]*.*")}


def help_of(tool: Path) -> str:
    """What a tool says of itself.

    Raises:
        PluginError: There is no such tool, or it ended before it parsed its arguments.
    """
    if not tool.is_file():
        raise PluginError(f"docs/tools.md: there is no {tool.name}")
    text = tool.read_text(encoding="utf-8")
    if tool.suffix != ".py":
        comment = re.match(r"#!.*\n((?:#.*\n)+)", text)[1]
        usage = re.search(r'"usage: \$0 (.*?)"', text)
        about = re.sub(r"^# ?", "", comment, flags=re.MULTILINE)
        return (f"usage: {tool.name} {usage[1]}\n\n" if usage else "") + about.strip()
    if "ArgumentParser" not in text:
        return ast.get_docstring(ast.parse(text))
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        mock.patch.object(sys, "argv", [str(tool)]),
        mock.patch.object(sys, "path", [str(tool.parent), *sys.path]),
        mock.patch.dict(os.environ, COLUMNS=str(WIDTH)),
    ):
        try:
            runpy.run_path(str(tool))["main"]()
        except Parsing as parsing:
            return "\n\n".join(parser.format_help().strip() for parser in family(parsing.parser))
    raise PluginError(f"{tool.name} parsed no arguments")


def family(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and those of its subcommands."""
    choosers = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return [parser, *(inner for chooser in choosers for inner in chooser.choices.values())]


def stop(parser: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
    """Stands for ``parse_args``.

    Raises:
        Parsing: Always.
    """
    raise Parsing(parser)
