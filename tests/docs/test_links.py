"""Links of README, guides and documentation lead somewhere, read in the repository as well."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

PARSER = MarkdownIt("commonmark").enable("table")
HTML_LINK = re.compile(r'\s(?:href|src|srcset)="([^"]+)"')
HTML_ANCHOR = re.compile(r'\s(?:id|name)="([^"]+)"')


def markdown_files(root: Path) -> list[Path]:
    found = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("examples/**/*.md")]
    return sorted(found)


def tokens(page: Path) -> Iterator[Token]:
    for token in PARSER.parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def links(page: Path) -> list[str]:
    """Targets of links and images, in Markdown and in HTML."""
    found = []
    for token in tokens(page):
        if token.type in ("link_open", "image"):
            found.append(token.attrGet("href") or token.attrGet("src"))
        elif token.type in ("html_block", "html_inline"):
            found += HTML_LINK.findall(token.content)
    return found


def anchors(page: Path) -> set[str]:
    """What ``#…`` can name: headings, as GitHub and the site spell them, and ids of HTML."""
    found, stream = set(), list(tokens(page))
    for token, inner in pairwise(stream):
        if token.type == "heading_open":
            text = "".join(child.content for child in inner.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            same = sum(one == slug or one.startswith(f"{slug}-") for one in found)
            found.add(f"{slug}-{same}" if slug in found else slug)
        elif token.type in ("html_block", "html_inline"):
            found |= set(HTML_ANCHOR.findall(token.content))
    return found


def dead(page: Path, root: Path) -> list[str]:
    """Links within the repository that lead nowhere, or out of it."""
    wrong = []
    for link in links(page):
        if urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        there = target.is_relative_to(root) and target.exists()
        if not there or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            wrong.append(link)
    return wrong


def unfit(link: str) -> bool:
    """Whether an address is none of the web's that can be right."""
    parts = urlsplit(link)
    host = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc)
    return parts.scheme != "https" or not host or bool(re.search(r"\s|[.,;:)]$", link))


def test_links_lead_somewhere(root):
    files = markdown_files(root)
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= {file.name for file in files}
    found = {str(file.relative_to(root)): dead(file, root) for file in files}
    assert not {name: wrong for name, wrong in found.items() if wrong}


def test_addresses_of_the_web(root):
    """They are looked at, not asked for: tests need no network."""
    addresses = {
        link for file in markdown_files(root) for link in links(file) if urlsplit(link).scheme
    }
    assert addresses
    assert [link for link in sorted(addresses) if unfit(link)] == []


@pytest.mark.parametrize(
    "link",
    ["gone.md", "there.md#gone", "#gone", "gone.png", "../outside.md", "there.png#x"],
)
def test_dead_links_are_found(tmp_path, link):
    (tmp_path / "outside.md").write_text("# Outside")
    root = tmp_path / "repository"
    root.mkdir()
    (root / "there.md").write_text('# A `title`, twice\n\n# A title, twice\n\n<a id="own"></a>\n')
    (root / "there.png").touch()
    page = root / "page.md"
    good = "[a](there.md) [b](there.md#a-title-twice) [c](there.md#a-title-twice-1) "
    good += "![d](there.png) [e](there.md#own) [f](https://a.b) `[g](gone.md)`\n"
    page.write_text(f"{good}\n```\n[h](gone.md)\n```\n\n# Here\n\n[i](#here)\n")
    assert dead(page, root) == []
    page.write_text(f"{page.read_text()}\n[x]({link})\n")
    assert dead(page, root) == [link]
    page.write_text(f'{good}\n<img alt="x" src="{link}">\n\n| a |\n|---|\n| [y]({link}) |\n')
    assert dead(page, root) == [link, link]


@pytest.mark.parametrize(
    "link",
    ["http://a.org", "https://a", "https:/a.org", "https://a.org/b.", "ftp://a.org", "mailto:x"],
)
def test_unfit_addresses_are_found(link):
    assert unfit(link)
    assert not unfit("https://openaccess.thecvf.com/content/CVPR2022/html/a_b.html")
