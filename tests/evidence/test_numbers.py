"""Every number of the documentation is in a log, and one that is not is found."""

import json

import pytest

from halvit_mm.evidence.logs import Logs
from halvit_mm.evidence.numbers import numbers, unsupported

TABLE = "<!-- table: t -->\n| a |\n|---|\n| 12.34 and 13,466,176 and 0.5 |\n<!-- end -->\n"


def test_every_number_of_the_documentation_is_in_a_log(root):
    found = unsupported(root, Logs(root / "docs" / "results"))
    assert not found, "\n".join(found)


@pytest.fixture
def page(tmp_path):
    """Writes a page and what its sentences are made of; what is wrong with them."""
    results = tmp_path / "docs" / "results"
    results.mkdir(parents=True)
    (results / "log.json").write_text(json.dumps(dict(a=2.345, b=1_234)))
    (tmp_path / "README.md").write_text("")

    def check(text, quoted="{}", **others):
        for name, content in others.items():
            (tmp_path / "docs" / f"{name}.md").write_text(content)
        (tmp_path / "docs" / "page.md").write_text(text)
        (results / "quoted.yml").write_text(quoted)
        return unsupported(tmp_path, Logs(results))

    return check


def test_a_number_without_a_log_is_named_with_its_line(page):
    (fault,) = page("# Title\n\nIt reaches\n91.7 points.\n")
    assert fault.startswith("docs/page.md:4: 91.7 is in no log")


@pytest.mark.parametrize(
    "text", ["12.3", "1,234", "1,234.5", "7%", "7 %", "−0.3", "(0.31)", "5.5M"]
)
def test_what_counts_as_a_number(page, text):
    (fault,) = page(f"So much: {text} it is.\n")
    assert "is in no log" in fault


@pytest.mark.parametrize(
    "text",
    [
        "`lr=0.003` in code", "```\nx = 0.5\n```", "## Section 1.5", "[a](page.md#1.5)",
        "https://example.org/1.25/", "torch 2.11.0, Python 3.10, 3.11 or 3.12", "torch before 2.10",
        "2026-11-22, 800 × 1333 pixels, 12 epochs, 3 seeds", "arXiv 2411.09816 (2510.18431)",
        "Apache-2.0", "<!-- 0.25 -->", "1.2.3", TABLE,
    ],
)  # fmt: skip
def test_what_does_not(text):
    assert [number.text for number in numbers(text + "\n")] == []


def test_tables_answer_for_numbers_digit_for_digit(page):
    assert page(f"{TABLE}\nIt is 12.34 and 13,466,176, about 13.5M.\n") == []
    faults = page(f"{TABLE}\nIt is 12.3 and 13,466,177, about 13.4M or 0.5, and 2.34.\n")
    assert [fault.split(": ")[1].split()[0] for fault in faults] == [
        "12.3", "13,466,177", "13.4", "0.5", "2.34"
    ]  # fmt: skip


def test_tables_of_linked_pages_count(page):
    text = "It is 12.34 ([there](other.md#t)).\n"
    assert page(text, other=TABLE) == []
    (fault,) = page("It is 12.34.\n", other=TABLE)
    assert "12.34 is in no log" in fault


def test_sentences_have_formulas(page):
    quoted = "docs/page.md:\n  'gains 2.3 points of 1,234': [\"'log#a'\", \"'log#b'\"]\n"
    assert page("It gains\n2.3 points\nof 1,234.\n", quoted) == []
    (fault,) = page("It gains 2.3 points of 1,234, or 2.3.\n", quoted)
    assert fault.startswith("docs/page.md:1: 2.3 is in no log")


@pytest.mark.parametrize(
    ("sentence", "sources", "says"),
    [
        ("gains 2.4 points", "\"'log#a'\"", "docs/page.md:1: 2.4: 'log#a' is 2.345"),
        ("gains 2.3 points", "\"'log#c'\"", "no such number"),
        ("gains 2.3 points", "[setting, setting]", "2 sources for 1 numbers"),
        ("gains 9.9 points", "setting", "does not say 'gains 9.9 points' any more"),
    ],
)
def test_a_sentence_that_its_formula_does_not_give(page, sentence, sources, says):
    text = sentence.replace("9.9", "some")
    faults = page(f"It {text}.\n", f"docs/page.md:\n  '{sentence}': {sources}\n")
    assert len(faults) == 1
    assert says in faults[0]


def test_sentences_of_a_page_that_is_gone(page):
    (fault,) = page("Nothing.\n", "docs/gone.md:\n  'It is 1.5': setting\n")
    assert "there is no page docs/gone.md" in fault
