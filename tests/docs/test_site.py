"""The documentation builds without a warning, offline, and has all of its pages."""

import ast
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, PluginError

# One process builds the site once.
pytestmark = pytest.mark.xdist_group("site")


@pytest.fixture(scope="module")
def site(root, tmp_path_factory) -> Path:
    """What `make docs` builds."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert not re.search("warning|error|deprecat", output, re.IGNORECASE), output
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[str, str]:
    """The HTML of the site's pages."""
    files = site.rglob("*.html")
    return {file.relative_to(site).as_posix(): file.read_text() for file in files}


def public_names(room: Path) -> set[str]:
    """``__all__``, read and not imported; rooms that import late list their names in ``_HOMES``."""
    names: set[str] = set()
    for node in ast.parse((room / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets) in ("__all__", "_HOMES"):
            try:
                names |= set(ast.literal_eval(node.value))
            except ValueError:
                assert ast.unparse(node.value) == "sorted(_HOMES)", room
    return names


def rooms(root: Path) -> list[str]:
    return sorted(file.parent.name for file in root.glob("halvit_mm/*/__init__.py"))


def test_every_page_is_on_the_site(root, pages):
    wanted = {page.relative_to(root / "docs") for page in root.glob("docs/**/*.md")}
    wanted |= {Path(f"{name}.md") for name in ("index", "changelog", "contributing", "examples")}
    assert {page.with_suffix(".html").as_posix() for page in wanted} <= set(pages)


def test_front_page_is_the_readme(root, site, pages):
    title = re.match(r"# (.+)", (root / "README.md").read_text())[1]
    front = pages["index.html"]
    assert re.search(rf"<h1[^>]*>{re.escape(title)}<", front)
    for image in re.findall(r'<img [^>]*src="([^"]+)"', front):
        assert image.startswith("https://") or (site / image).is_file(), image


def test_nothing_comes_from_the_network(pages):
    for name, html in pages.items():
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="?(https?:[^" >]+)', html)
        loaded += re.findall(r'<link[^>]* href="?(https?:[^" >]+)', html)
        assert loaded == [], name


def test_public_names_of_every_room_are_in_the_reference(root, pages):
    for room in rooms(root):
        html = pages[f"api/{room}.html"]
        ids = set(re.findall(r'id="(halvit_mm\.[\w.]+)"', html))
        last = {one.rpartition(".")[2] for one in ids}
        assert public_names(root / "halvit_mm" / room) <= last, room
        assert ids or "doc-contents" in html, room
        assert not [one for one in ids if re.search(r"\._(?!_)", one)], room


def test_reference_has_shapes_and_no_foreign_markup(pages):
    html = pages["api/layers.html"]
    assert "(B, N, dim)" in html and "Raises:" in html
    assert not re.search(r":(?:class|func|meth|mod|attr):", html)


def test_every_tool_shows_its_options(root, pages):
    html = pages["tools.html"]
    for tool in root.glob("tools/[!_]*.*"):
        assert f"usage: {tool.name} " in html or tool.name == "install.py", tool.name
        for option in re.findall(r'add_argument\(\s*"(--[\w-]+)"', tool.read_text()):
            assert option in html, f"{tool.name} {option}"


def test_room_names_are_in_the_architecture(root):
    text = (root / "docs" / "architecture.md").read_text()
    for room in rooms(root):
        assert f"| `halvit_mm/{room}` |" in text, room


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, None),
        ({"lost.md": "# Lost"}, "lost.md"),
        ({"index.md": "[a](gone.md)"}, "gone.md"),
        ({"index.md": "[a](#gone)"}, "#gone"),
        ({"index.md": "![a](gone.png)"}, "gone.png"),
        ({"index.md": "[a](/index.md)"}, "/index.md"),
    ],
)
def test_faults_fail_the_build(root, tmp_path, caplog, files, told):
    """With this project's settings, on a site of one page."""
    (tmp_path / "docs").mkdir()
    for name, text in {"index.md": "# Front", **files}.items():
        (tmp_path / "docs" / name).write_text(text)
    text = (root / "mkdocs.yml").read_text()
    own = dict(
        docs_dir=str(tmp_path / "docs"),
        site_dir=str(tmp_path / "site"),
        nav=[{"Front": "index.md"}],
        plugins=[],
        hooks=[],
        extra_css=[],
        theme="mkdocs",
        validation=yaml.load(text, yaml.BaseLoader)["validation"],
    )
    config = load_config(str(root / "mkdocs.yml"), strict=True, **own)
    if told is None:
        build(config)
    else:
        with pytest.raises(Abort):
            build(config)
        assert told in caplog.text


def load_hook(root: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(name, root / "docs" / "hooks" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tools_without_a_place_are_told(root, caplog):
    hook = load_hook(root, "commands")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tools.md"))
    shown = "<!-- help: tools/check_env.py -->"
    text = hook.on_page_markdown(f"a\n\n{shown}\n", page, None, None)
    assert text.startswith("a\n\n```text\nusage: check_env.py ") and "--verbose" in text
    assert "tools/train.py has no place" in caplog.text
    assert "tools/check_env.py has no place" not in caplog.text
    with pytest.raises(PluginError, match=r"there is no gone\.py"):
        hook.on_page_markdown("<!-- help: tools/gone.py -->", page, None, None)


@pytest.mark.parametrize(
    ("source", "here", "before", "after"),
    [
        ("README.md", "index.md", "[a](docs/faq.md#x)", "[a](faq.md#x)"),
        ("README.md", "index.md", "![a](docs/images/x.png)", "![a](images/x.png)"),
        ("README.md", "index.md", '<img src="docs/images/x.png">', '<img src="images/x.png">'),
        ("README.md", "index.md", "[changes](CHANGELOG.md)", "[changes](changelog.md)"),
        ("README.md", "index.md", "[LICENSE](LICENSE)", "`LICENSE`"),
        ("README.md", "index.md", "[`setup.py`](setup.py)", "`setup.py`"),
        ("README.md", "index.md", "[all configs](configs/)", "all configs (`configs`)"),
        ("README.md", "index.md", "[x](gone.py)", "[x](gone.py)"),
        ("README.md", "index.md", "[x](https://a.b/docs/c)", "[x](https://a.b/docs/c)"),
        ("README.md", "index.md", "`[a](docs/faq.md)`", "`[a](docs/faq.md)`"),
        ("README.md", "index.md", "```\n[a](LICENSE)\n```", "```\n[a](LICENSE)\n```"),
        ("README.md", "index.md", "[x](examples/README.md)", "[x](examples.md)"),
        (
            "README.md",
            "index.md",
            "[![a](docs/images/x.png)](docs/faq.md)",
            "[![a](images/x.png)](faq.md)",
        ),
        ("docs/api/x.md", "api/x.md", "[a](../faq.md)", "[a](../faq.md)"),
        ("examples/README.md", "examples.md", "[a](../docs/faq.md)", "[a](faq.md)"),
        ("docs/api/x.md", "api/x.md", "[a](../../README.md#y)", "[a](../index.md#y)"),
        ("docs/how-to/x.md", "how-to/x.md", "[b](../../tools/train.py)", "b (`tools/train.py`)"),
    ],
)
def test_links_out_of_the_docs(root, source, here, before, after):
    assert load_hook(root, "outside_pages").rewrite_links(before, source, here) == after
