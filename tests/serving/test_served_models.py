"""Models that a command line names."""

from pathlib import Path

import pytest

from halvit_mm.errors import UserError
from halvit_mm.serving import ModelSource, model_sources


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py", "one.pth", "two.pth", "net.onnx", "run/one.pth"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


def parts(*given: str) -> list[tuple[str, str | None, str]]:
    return [
        (source.name, source.config and str(source.config), str(source.checkpoint))
        for source in model_sources(given)
    ]


def test_pairs_and_single_onnx_files():
    assert parts("a.py", "one.pth", "net.onnx", "b.py", "two.pth") == [
        ("a", "a.py", "one.pth"),
        ("net", None, "net.onnx"),
        ("b", "b.py", "two.pth"),
    ]


def test_an_onnx_file_may_have_a_config():
    assert parts("a.py", "net.onnx") == [("a", "a.py", "net.onnx")]


def test_two_checkpoints_of_a_config_have_two_names():
    names = [
        name for name, _, _ in parts("a.py", "one.pth", "a.py", "run/one.pth", "b.py", "two.pth")
    ]
    assert len(set(names)) == 3
    assert names[1:] == ["a (run/one.pth)", "b"]


def test_sources_are_values():
    assert ModelSource("a", Path("a.py"), Path("one.pth")) in model_sources(["a.py", "one.pth"])


@pytest.mark.parametrize(
    "given, said",
    [
        (["a.py"], r"a\.py: its checkpoint is missing"),
        (["a.py", "b.py", "two.pth"], r"a\.py: its checkpoint is missing"),
        (["one.pth", "a.py"], r"one\.pth: name its config right before it"),
        (["a.py", "one.pth", "two.pth"], r"two\.pth: name its config right before it"),
        (["a.py", "gone.pth"], r"gone\.pth: there is no such file"),
        (["run"], "run: there is no such file"),
        (["a.py", "one.pth", "a.py", "one.pth"], "named twice"),
    ],
)
def test_mistakes_are_told(given, said):
    with pytest.raises(UserError, match=said):
        model_sources(given)
