"""Every public name of the package says what it is."""

from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest

#: What PyTorch calls to print a layer; it says the same everywhere.
PRINTING = "extra_repr"


def undocumented(package: str, folder: Path) -> list[str]:
    """Public modules, classes, functions and methods without a docstring, by dotted name.

    A method that overrides one of the package's own, which has a docstring, keeps its contract and
    needs none.
    """
    return [one.path for one in walk(griffe.load(package, search_paths=[folder])) if lacks(one)]


def walk(one: griffe.Object) -> Iterator[griffe.Object]:
    yield one
    for member in () if one.is_function else one.members.values():
        if not (member.is_alias or member.is_private or is_plain_attribute(member)):
            yield from walk(member)


def is_plain_attribute(member: griffe.Object) -> bool:
    return member.is_attribute and "property" not in member.labels


def lacks(one: griffe.Object) -> bool:
    if one.has_docstring or one.is_special or one.name == PRINTING:
        return False
    inherits = one.parent is not None and one.parent.is_class
    bases = one.parent.mro() if inherits else []
    return not any(b.members[one.name].has_docstring for b in bases if one.name in b.members)


def test_every_public_name_has_a_docstring(root):
    assert undocumented("halvit_mm", root) == []


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("x = 1", ["house"]),
        ('"""A."""\ndef f(): ...', ["house.f"]),
        ('"""A."""\nclass C:\n    """A."""\n    def m(self): ...', ["house.C.m"]),
        ('"""A."""\nclass C:\n    """A."""\n    @property\n    def p(self): ...', ["house.C.p"]),
        ('"""A."""\ndef _f(): ...\nclass C:\n    """A."""\n    def __len__(self): ...', []),
        (
            '"""A."""\nclass B:\n    """A."""\n    def m(self):\n        """A."""\n'
            'class C(B):\n    """A."""\n    def m(self): ...',
            [],
        ),
    ],
)
def test_what_lacks_a_docstring_is_found(tmp_path, code, missing):
    (tmp_path / "house.py").write_text(code)
    assert undocumented("house", tmp_path) == missing
