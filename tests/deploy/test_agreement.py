"""Comparing detections: what is the same, what may differ, and what is said of the rest."""

import numpy as np
import pytest

from halvit_mm.deploy.agreement import compare_detections


def found(*rows: tuple[float, float, float, float, float, int]):
    """Detections (x1, y1, x2, y2, score, label)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(int)


CAT = (10, 10, 110, 60, 0.9, 3)
DOG = (200, 50, 260, 150, 0.7, 5)
FAINT = (5, 5, 40, 40, 0.0505, 5)


def test_same_objects_in_another_order():
    result = compare_detections(found(CAT, DOG), found(DOG, CAT))
    assert result.agrees
    assert result.pairs.tolist() == [[0, 1], [1, 0]]
    assert (result.worst_iou, result.worst_score, result.excused) == (1, 0, 0)


def test_small_changes_are_measured():
    moved = (10, 10, 110, 60.25, 0.9004, 3)
    result = compare_detections(found(CAT, DOG), found(moved, DOG))
    assert result.agrees
    assert result.worst_iou == pytest.approx(50 / 50.25, abs=1e-6)
    assert result.worst_score == pytest.approx(4e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("other", "messages"),
    [
        ((10, 10, 110, 61, 0.9, 3), ["is missing; .* IoU 0.980", "is extra; .* IoU 0.980"]),
        ((10, 10, 110, 60, 0.897, 3), ["label 3 with score 0.9000 has score 0.8970 instead"]),
        ((10, 10, 110, 60, 0.9, 4), ["label 3 .* missing; .* 0.000", "label 4 .* extra"]),
    ],
    ids=["place", "score", "label"],
)
def test_differences_are_told(other, messages):
    result = compare_detections(found(CAT, DOG), found(other, DOG))
    assert not result.agrees
    assert len(result.differences) == len(messages)
    for text, message in zip(result.differences, messages, strict=True):
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(text)


def test_tolerances():
    a, b = found(CAT), found((10, 10, 110, 61, 0.88, 3))
    assert compare_detections(a, b, iou=0.9, score=0.03).agrees
    assert not compare_detections(a, b, iou=0.9, score=0.01).agrees
    assert not compare_detections(a, b, iou=0.99, score=0.03).agrees


def test_each_object_has_one_partner():
    once, twice = found(CAT), found(CAT, CAT)
    for a, b, word in ((once, twice, "extra"), (twice, once, "missing")):
        result = compare_detections(a, b)
        assert len(result.pairs) == 1
        assert len(result.differences) == 1
        assert f"is {word}" in result.differences[0]


def test_the_nearest_boxes_are_partners():
    a = found((0, 0, 100, 100, 0.9, 0), (0, 0, 100, 100.5, 0.8, 0))
    b = found((0, 0, 100, 100.5, 0.8, 0), (0, 0, 100, 100.2, 0.9, 0))
    assert compare_detections(a, b).pairs.tolist() == [[0, 1], [1, 0]]


def test_rounding_at_the_threshold_is_excused():
    with_faint, without = found(CAT, FAINT), found(CAT)
    for a, b in ((with_faint, without), (without, with_faint)):
        result = compare_detections(a, b, score_threshold=0.05)
        assert result.agrees
        assert result.excused == 1
        assert not compare_detections(a, b, score_threshold=0.04).agrees


def test_rounding_at_the_end_of_a_full_list_is_excused():
    rival = (300, 300, 340, 330, 0.7004, 1)
    a, b = found(CAT, DOG), found(CAT, rival)
    assert not compare_detections(a, b).agrees
    result = compare_detections(a, b, max_per_image=2)
    assert result.agrees
    assert result.excused == 2
    # A list that is not full has room for it.
    assert not compare_detections(a, b, max_per_image=3).agrees
    # What is well above the end of the list must be there.
    worse = found(DOG, (300, 300, 340, 330, 0.6996, 1))
    assert len(compare_detections(a, worse, max_per_image=2).differences) == 1


def test_slivers_are_the_same_if_their_corners_are():
    a = found((0, 10, 0.002, 50, 0.5, 1), (7, 7, 7, 7, 0.4, 1))
    b = found((0, 10, 0.004, 50, 0.5, 1), (7, 7, 7, 7.001, 0.4, 1))
    assert compare_detections(a, b).agrees
    assert not compare_detections(a, found((0, 10, 0.1, 50, 0.5, 1), (7, 7, 7, 7, 0.4, 1))).agrees


@pytest.mark.parametrize("column", range(5))
def test_what_is_not_a_number_agrees_with_nothing(column):
    broken = list(CAT)
    broken[column] = np.nan
    assert not compare_detections(found(CAT), found(broken)).agrees
    assert not compare_detections(found(broken), found(CAT)).agrees


def test_nothing_found():
    assert compare_detections(found(), found()).agrees
    assert not compare_detections(found(), found(CAT)).agrees
    assert not compare_detections(found(CAT), found()).agrees
