"""Files outside ``docs/`` that are pages, and links that leave ``docs/``.

README, changelog and guides are written to be read in the repository, and so are the links of all
pages. On the site a link to one of these files leads to its page, and a link to any other file
outside ``docs/``, or to a folder, becomes the path itself: the site does not hold it.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

#: Files of the repository, and the pages that they become.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
}
SOURCES = {page: source for source, page in PAGES.items()}

#: Code, which is left alone, or a link or an image; of HTML the attributes that name a file.
LINK = re.compile(
    r"^(?P<fence> *```+).*?^(?P=fence)|(?P<ticks>`+).+?(?P=ticks)"
    r"|!?\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\](?:\([^)]*\))?)*)\]\((?P<target>[^()\s]+)\)"
    r"|(?<=\ssrc=\")(?P<src>[^\"]+)|(?<=\shref=\")(?P<href>[^\"]+)",
    re.DOTALL | re.MULTILINE,
)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages; of a file that is missing MkDocs tells, as its page is in ``nav``."""
    for source, page in PAGES.items():
        if (ROOT / source).is_file():
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes the links of a page those of the site."""
    here = page.file.src_uri
    return rewrite_links(markdown, SOURCES.get(here, f"docs/{here}"), here)


def rewrite_links(text: str, source: str, here: str) -> str:
    """The links of the file ``source``, as the page ``here`` has them."""

    def rewrite(link: re.Match) -> str:
        group = next((name for name in ("target", "src", "href") if link[name]), None)
        if group is None or link[group].startswith("#") or ":" in link[group]:
            return link[0]
        path, mark, anchor = link[group].partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        inner = rewrite_links(link["text"] or "", source, here)
        if path in PAGES or (path.startswith("docs/") and not (ROOT / path).is_dir()):
            page = PAGES.get(path, path.removeprefix("docs/"))
            target = posixpath.relpath(page, posixpath.dirname(here)) + mark + anchor
            image = "!" if link[0].startswith("!") else ""
            return f"{image}[{inner}]({target})" if group == "target" else target
        if group != "target" or not (ROOT / path).exists():
            return link[0]  # for MkDocs to complain about
        return f"`{path}`" if inner.strip("`").rstrip("/") == path else f"{inner} (`{path}`)"

    return LINK.sub(rewrite, text)
