"""Whether two programs find the same objects in an image, and what differs if not."""

from dataclasses import dataclass

import numpy as np

#: Boxes (N, 4), scores (N,) and labels (N,) of one image.
Found = tuple[np.ndarray, np.ndarray, np.ndarray]
#: Boxes whose corners differ by no more than this are the same, whatever their overlap: of a box
#: narrower than a pixel, rounding alone takes more than a hundredth.
_SAME_PIXELS = 0.01


@dataclass(frozen=True, eq=False)
class Agreement:
    """What comes of comparing two sets of detections.

    Attributes:
        pairs: (M, 2) indices of the detections that are the same in both sets.
        worst_iou: The least overlap of a pair; 1 where there is none.
        worst_score: The largest difference between the scores of a pair; 0 where there is none.
        excused: Number of detections that only one set has, and may: they lie at the threshold or
            at the end of a full list, where a rounding error decides.
        differences: All else in which the sets differ, a sentence each.
    """

    pairs: np.ndarray
    worst_iou: float
    worst_score: float
    excused: int
    differences: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether the sets are the same within the tolerances."""
        return not self.differences


def compare_detections(
    expected: Found,
    got: Found,
    *,
    iou: float = 0.99,
    score: float = 1e-3,
    score_threshold: float = 0.0,
    max_per_image: int | None = None,
) -> Agreement:
    """Matches two sets of detections one to one and lists what differs.

    Args:
        expected: What one program finds.
        got: What the other finds in the same image.
        iou: Least overlap of boxes that are the same; they also have the same label.
        score: How much the scores of the same box may differ.
        score_threshold: Least score that the programs keep.
        max_per_image: The most detections that the programs keep.
    """
    overlaps = _overlaps(expected[0], got[0])
    overlaps[expected[2][:, None] != got[2]] = -1
    pairs = _match(overlaps, iou)
    by = np.abs(expected[1][pairs[:, 0]] - got[1][pairs[:, 1]])
    differences = [
        f"{_describe(expected, i)} has score {got[1][j]:.4f} instead"
        for (i, j), change in zip(pairs.tolist(), by, strict=True)
        if not change <= score  # so that NaN counts as a difference
    ]
    excused = 0
    sides = ((expected, got, 0, overlaps, "is missing"), (got, expected, 1, overlaps.T, "is extra"))
    for found, other, side, overlap, word in sides:
        full = max_per_image is not None and len(other[1]) >= max_per_image
        cut = max(score_threshold, other[1].min(initial=np.inf) if full else 0.0)
        for i in np.setdiff1d(np.arange(len(found[1])), pairs[:, side]):
            if found[1][i] <= cut + score:
                excused += 1
                continue
            nearest = max(overlap[i].max(initial=0), 0)
            differences.append(
                f"{_describe(found, i)} {word}; the nearest box of its label has IoU {nearest:.3f}"
            )
    return Agreement(
        pairs=pairs,
        worst_iou=float(overlaps[pairs[:, 0], pairs[:, 1]].min(initial=1)),
        worst_score=float(by.max(initial=0)),
        excused=excused,
        differences=tuple(differences),
    )


def _match(overlaps: np.ndarray, least: float) -> np.ndarray:
    """Pairs (M, 2) of rows and columns, each in one pair at most, the largest overlaps first."""
    candidates = np.argwhere(overlaps >= least)
    order = np.argsort(-overlaps[candidates[:, 0], candidates[:, 1]], kind="stable")
    rows, columns, pairs = set(), set(), []
    for i, j in candidates[order].tolist():
        if i not in rows and j not in columns:
            rows.add(i)
            columns.add(j)
            pairs.append((i, j))
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU (N, M) of boxes (N, 4) and (M, 4); 1 where they are the same but for rounding."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    union = (
        (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - shared
    )
    ratio = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return np.where(np.abs(a - b).max(axis=-1) <= _SAME_PIXELS, 1, ratio)


def _describe(found: Found, i: int) -> str:
    box = ", ".join(f"{value:.1f}" for value in found[0][i])
    return f"the box ({box}) of label {found[2][i]} with score {found[1][i]:.4f}"
