"""What the page says."""

from html.parser import HTMLParser

import numpy as np

from halvit_mm.inference.results import Classification, Detections
from halvit_mm.serving import words
from halvit_mm.serving.looks import Look

BAD = "<img src=x onerror=alert(1)>"


def detections(*, masks: bool = True) -> Detections:
    covered = np.zeros((2, 20, 30), bool)
    covered[0, :4, :5] = True
    return Detections(
        boxes=np.array([[1, 2, 11, 22], [0, 0, 3, 4]], np.float32),
        scores=np.array([0.987, 0.4], np.float32),
        labels=np.array([1, 0]),
        masks=covered if masks else None,
        size=(20, 30),
        classes=("cat", BAD),
    )


class Cells(HTMLParser):
    """The texts of a table's cells, row by row, and all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_a_table_has_a_row_for_each_object():
    table = Cells(words.detections_table(detections()))
    assert table.rows == [
        ["", "class", "score", "left", "top", "width", "height", "area of the mask"],
        ["1", BAD, "0.99", "1", "2", "10", "20", "20"],
        ["2", "cat", "0.40", "0", "0", "3", "4", "0"],
    ]
    assert "img" not in table.tags


def test_a_table_without_masks_has_no_area():
    table = Cells(words.detections_table(detections(masks=False)))
    assert [len(row) for row in table.rows] == [7, 7, 7]


def test_no_objects_no_table():
    assert words.detections_table(detections().above(2)) == ""


def test_summary_counts_what_is_shown_and_what_is_not():
    look = Look(np.zeros((20, 30, 3), np.uint8), detections(), 0.0124)
    text = words.summary(look, look.result.above(0.5), 0.5)
    assert "<strong>1 object</strong> scoring 0.50 or more (1 less certain)" in text
    assert "30 × 20 pixels, 12 ms" in text
    assert "<strong>2 objects</strong> scoring 0.05 or more. 30" in words.summary(
        look, look.result, 0.05
    )


def test_summary_of_a_classification():
    result = Classification(np.array([0.2, 0.8], np.float32), (20, 30), ("cat", "dog"))
    look = Look(np.zeros((20, 30, 3), np.uint8), result, 2.34)
    assert words.summary(look, result, 0.5) == "<p>30 × 20 pixels, 2.3 s.</p>"


def test_names_cannot_bring_their_own_html():
    for html in (words.message(BAD), words.note(BAD), words.facts_table([(BAD, BAD)])):
        assert "<img" not in html and "&lt;img" in html


def test_a_message_is_an_alert_and_none_is_nothing():
    assert 'role="alert"' in words.message("wrong")
    assert words.message("") == ""
