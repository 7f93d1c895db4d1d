"""A copy of the documentation with its logs, to change."""

import shutil

import pytest

from halvit_mm.evidence.site import Site


@pytest.fixture
def site(root, tmp_path):
    """A copy of the repository's pages, plots and logs."""
    shutil.copytree(root / "docs", tmp_path / "docs")
    shutil.copy(root / "README.md", tmp_path)
    return Site(root=tmp_path)


@pytest.fixture
def change():
    """Replaces a text in a file, where it must be."""

    def replace(file, old, new):
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")

    return replace
