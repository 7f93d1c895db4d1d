"""What the page says, as HTML. Names of classes and files are other people's: all are escaped."""

from collections.abc import Iterable, Sequence
from html import escape

from ..inference.results import Classification, Detections
from .looks import Look


def message(text: str) -> str:
    """A mistake, told to screen readers as soon as it appears; nothing for no text."""
    return f'<div role="alert" class="fault">{escape(text)}</div>' if text else ""


def note(text: str) -> str:
    """A remark that is no mistake."""
    return f"<p>{escape(text)}</p>"


def summary(look: Look, shown: Detections | Classification, threshold: float) -> str:
    """One line about a run: what was found, how large the picture is, how long it took."""
    height, width = look.result.size
    run = f"{width} × {height} pixels, {_seconds(look.seconds)}"
    if isinstance(shown, Classification):
        return f"<p>{run}.</p>"
    count = f"{len(shown)} {'object' if len(shown) == 1 else 'objects'}"
    hidden = len(look.result) - len(shown)
    more = f" ({hidden} less certain)" if hidden else ""
    return f"<p><strong>{count}</strong> scoring {threshold:.2f} or more{more}. {run}.</p>"


def detections_table(detections: Detections) -> str:
    """One row for each object, best first; positions in pixels."""
    if not len(detections):
        return ""
    heads = ["", "class", "score", "left", "top", "width", "height"]
    if detections.masks is not None:
        heads.append("area of the mask")
    rows = []
    for i, (x1, y1, x2, y2) in enumerate(detections.boxes.tolist()):
        name = detections.classes[int(detections.labels[i])]
        row = [str(i + 1), name, f"{detections.scores[i]:.2f}"]
        row += [f"{value:.0f}" for value in (x1, y1, x2 - x1, y2 - y1)]
        if detections.masks is not None:
            row.append(str(int(detections.masks[i].sum())))
        rows.append(row)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of objects">'
        f"{_table(heads, rows)}</div>"
    )


def facts_table(facts: Sequence[tuple[str, str]]) -> str:
    """What is known about a model: names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in facts
    )
    return f'<table class="facts">{rows}</table>'


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return f'<table class="objects"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"
