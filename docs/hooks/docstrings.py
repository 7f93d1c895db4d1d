"""Sphinx' roles in docstrings, which Markdown does not know: plain code instead."""

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROLE = re.compile(
    r":(?:mod|class|func|meth|attr|data|exc):<code>(?:~(?:\w+\.)*|\.)?([\w.]+)</code>"
)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes plain code of them."""
    return ROLE.sub(r"<code>\1</code>", html)
