"""Whether each number that the documentation quotes is in a stored log.

Numbers are what has a decimal point, a thousands comma or a percent sign behind it. Code, headings,
addresses, versions and the tables that are made from logs are left out. Each number must be

- shown by a table made from logs, on the same page or on one that it links to, with the same
  digits, at least three of them, or rounded to them with M (10⁶) or k (10³) behind, or
- in a sentence of ``docs/results/quoted.yml``, which says for each number of the sentence what it
  is made of: a formula over stored values (:mod:`.expressions`), whose value must give the number
  at its printed precision, or the word ``setting`` for what was chosen, not measured.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..errors import UserError
from .expressions import evaluate
from .logs import Logs
from .pages import blocks, pages

QUOTED = "docs/results/quoted.yml"
SETTING = "setting"
_DIGITS = 3  # of a number that a table may answer for; shorter ones would be found by chance

_NUMBER = re.compile(
    r"(?<![\w.,])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+(?![.\w]*\.\d)|\d+(?=\s?%))(?!\.?\d)"
)
_PACKAGES = (
    r"torch|torchvision|[Pp]ython|timm|onnxruntime|onnx|onedl-\w+|mm\w+|gradio|pillow|pycocotools|"
    r"setuptools|CUDA|opencv|numpy|mkdocs\S*|matplotlib|Apache|CC BY(?:-SA)?|arXiv|pip|uv"
)
_SKIPPED = (
    re.compile(r"^---\n.*?^---$", re.DOTALL | re.MULTILINE),  # front matter
    re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE),
    re.compile(r"^ {4,}```.*?^ {4,}```", re.DOTALL | re.MULTILINE),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"(`+)[^`].*?\1", re.DOTALL),
    re.compile(r"(?<=\])\([^)]*\)"),  # targets of links
    re.compile(r"https?://\S+"),
    re.compile(r"^#.*$", re.MULTILINE),
    # Versions, also several of one package: Python 3.10, 3.11 or 3.12.
    re.compile(
        rf"\b(?:{_PACKAGES})[\s(:≥<>=-]*(?:before |after |from |is )?\d+(?:\.\d+)+"
        r"(?:(?:,| or| and| to|–)\s?\d+\.\d+)*"
    ),
    re.compile(r"\b\d{4}\.\d{5}\b"),  # arXiv
)
_LINK = re.compile(r"\]\(([^)#\s]+\.md)")
#: What may stand behind a number that a table has with all its digits.
_UNITS = {"M": 1e6, "k": 1e3}


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number on a page.

    Attributes:
        text: As it is printed.
        start: Where it begins in the page's text.
        line: Its line, from 1.
    """

    text: str
    start: int
    line: int

    @property
    def value(self) -> float:
        """It as a number."""
        return float(self.text.replace(",", ""))

    def is_printed(self, value: float) -> bool:
        """Whether a value gives this number at its printed precision; signs are the sentence's."""
        decimals = len(self.text.partition(".")[2])
        return abs(abs(value) - self.value) <= 0.5 * 10**-decimals * (1 + 1e-6)


def numbers(text: str) -> list[Number]:
    """The numbers of a page that need a source."""
    covered = list(text)
    for begin, end in _skipped(text):
        covered[begin:end] = (c if c == "\n" else " " for c in text[begin:end])
    plain = "".join(covered)
    return [
        Number(text=m[0], start=m.start(), line=plain.count("\n", 0, m.start()) + 1)
        for m in _NUMBER.finditer(plain)
    ]


def unsupported(root: Path, logs: Logs) -> list[str]:
    """The numbers of all pages that no log supports, and faults of the list of sentences."""
    quoted = _read(root / QUOTED)
    texts = {
        page.relative_to(root).as_posix(): page.read_text(encoding="utf-8") for page in pages(root)
    }
    found = [f"{QUOTED}: there is no page {name}" for name in quoted if name not in texts]
    for name in texts:
        found += _page_faults(name, texts, quoted.get(name, {}), logs)
    return found


def _page_faults(
    name: str, texts: dict[str, str], quoted: dict[str, object], logs: Logs
) -> Iterator[str]:
    text = texts[name]
    left = {number.start: number for number in numbers(text)}
    for sentence, sources in quoted.items():
        places = list(_pattern(sentence).finditer(text))
        if not places:
            yield f"{QUOTED}: {name} does not say {sentence!r} any more"
        for place in places:
            inside = [n for s, n in left.items() if place.start() <= s < place.end()]
            formulas = sources if isinstance(sources, list) else [sources]
            if len(inside) != len(formulas):
                shown = ", ".join(number.text for number in inside) or "none"
                yield (
                    f"{QUOTED}: {len(formulas)} sources for {len(inside)} numbers ({shown}) in "
                    f"{sentence!r} of {name}"
                )
            for number, formula in zip(inside, formulas, strict=False):
                del left[number.start]
                if fault := _disagreement(number, formula, logs):
                    yield f"{name}:{number.line}: {number.text}: {fault}"
    for number in left.values():
        if not _is_in_table(number, name, texts):
            yield (
                f"{name}:{number.line}: {number.text} is in no log: put it into a table made from "
                f"logs, or its sentence into {QUOTED} with what it is made of"
            )


def _disagreement(number: Number, formula: object, logs: Logs) -> str | None:
    if formula == SETTING:
        return None
    try:
        value = evaluate(str(formula), logs)
    except UserError as error:
        return str(error)
    return None if number.is_printed(value) else f"{formula} is {value:.6g}"


def _is_in_table(number: Number, name: str, texts: dict[str, str]) -> bool:
    """Whether a table made from logs shows it, on this page or one that it links to."""
    if len(number.text.replace(",", "").replace(".", "").lstrip("0")) < _DIGITS:
        return False
    text = texts[name]
    linked = {posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
              for target in _LINK.findall(text)}  # fmt: skip
    shown = [
        match[0]
        for page in {name, *linked} & texts.keys()
        for block in blocks(texts[page])
        for match in _NUMBER.finditer(block.text)
    ]
    if number.text in shown:
        return True
    unit = _UNITS.get(text[number.start + len(number.text) :][:1])
    return unit is not None and any(
        number.is_printed(float(one.replace(",", "")) / unit) for one in shown if "," in one
    )


def _skipped(text: str) -> Iterator[tuple[int, int]]:
    for block in blocks(text):
        yield block.span
    for pattern in _SKIPPED:
        for match in pattern.finditer(text):
            yield match.span()


def _pattern(sentence: str) -> re.Pattern[str]:
    """A sentence with whatever white space its page has."""
    return re.compile(r"\s+".join(map(re.escape, str(sentence).split())))


def _read(path: Path) -> dict[str, dict[str, object]]:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it lists the quoted sentences") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: this is not YAML: {error}") from error
