"""The faults of the segmentations in a file in COCO's format: polygons and RLE."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .coco_columns import ABSENT, Entries, fault_of_numbers, short, to_floats
from .coco_rules import LARGEST_COORDINATE, LONGEST_OUTLINE, SLACK
from .rle import decode_counts

_CHUNK = 20_000  # annotations; what is kept of them at once stays within some hundred megabytes


def note_mask_faults(
    annotations: Entries, sizes: np.ndarray, needed: np.ndarray, *, crossings: bool
) -> None:
    """Notes what is wrong with the segmentations.

    Args:
        annotations: N annotations.
        sizes: (N, 2), width and height of each one's image; NaN where it is not known.
        needed: (N) bool, the annotations that must have a segmentation.
        crossings: Whether to look for polygons that cross themselves, which takes longest.
    """
    for start in range(0, len(annotations.items), _CHUNK):
        numbers = range(start, min(start + _CHUNK, len(annotations.items)))
        masks = [annotations.items[i].get("segmentation", ABSENT) for i in numbers]
        polygons, runs, absent, other = [], [], [], []
        for i, mask in zip(numbers, masks, strict=True):
            if mask is ABSENT or mask is None or mask == [] or mask == {}:
                absent.append(i)
            elif isinstance(mask, list):
                polygons.append(i)
            else:
                (runs if isinstance(mask, dict) else other).append(i)
        annotations.note(
            "no mask", [i for i in absent if needed[i]], lambda i: "has no segmentation"
        )
        annotations.note("wrong type", other, lambda i: f"has {_shown(annotations, i)}")
        _note_polygon_faults(annotations, polygons, sizes, crossings=crossings)
        _note_rle_faults(annotations, runs, sizes)


@dataclass(frozen=True, eq=False)
class _Outlines:
    """M polygons that can be drawn.

    Attributes:
        points: (P, 2), the points of all, one polygon after the other.
        begins: (M + 1), where each one's begin and, at last, where the last one's end.
        owners: (M), the annotation that each belongs to; in ascending order.
    """

    points: np.ndarray
    begins: np.ndarray
    owners: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[list], owners: np.ndarray) -> "_Outlines":
        points = to_floats(list(chain.from_iterable(parts))).reshape(-1, 2)
        begins = np.concatenate([[0], np.cumsum([len(part) // 2 for part in parts])])
        return cls(points, begins.astype(np.int64), owners)

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """(M, 2) each: the smallest and the largest x and y."""
        begins = self.begins[:-1]
        return np.minimum.reduceat(self.points, begins), np.maximum.reduceat(self.points, begins)

    def lengths(self) -> np.ndarray:
        """(M), as many pixels as drawing the outline passes."""
        after = np.roll(self.points, -1, axis=0)
        after[self.begins[1:] - 1] = self.points[self.begins[:-1]]
        return np.add.reduceat(np.abs(after - self.points).max(axis=1), self.begins[:-1])

    def crossing(self) -> np.ndarray:
        """(M) bool, which ones cross or touch themselves."""
        import shapely

        rings = shapely.linearrings(
            self.points, indices=np.repeat(np.arange(len(self.owners)), np.diff(self.begins))
        )
        return ~shapely.is_simple(rings)


def _note_polygon_faults(
    annotations: Entries, numbers: list[int], sizes: np.ndarray, *, crossings: bool
) -> None:
    items = annotations.items
    numbers = _refuse_what_is_no_numbers(annotations, numbers)
    parts = [part for i in numbers for part in items[i]["segmentation"]]
    owners = np.repeat(numbers, [len(items[i]["segmentation"]) for i in numbers]).astype(np.int64)
    lengths = np.array([len(part) for part in parts], np.int64)
    whole = (lengths % 2 == 0) & (lengths >= 6)
    annotations.note(
        "short polygon",
        _once(owners[~whole]),
        lambda i: f"has a polygon of {_short_lengths(items[i])} numbers",
    )
    if not whole.any():
        return
    outlines = _Outlines.join(
        [part for part, good in zip(parts, whole, strict=True) if good], owners[whole]
    )
    low, high = outlines.extremes()
    owners, size = outlines.owners, sizes[outlines.owners]
    annotations.note(
        "absurd number",
        _once(owners[outlines.lengths() > LONGEST_OUTLINE]),
        lambda i: f"has a polygon whose outline passes more than {LONGEST_OUTLINE:.0f} pixels",
    )
    outside = ((high <= 0) | (low >= size)).any(axis=1)
    beyond = ((low < -SLACK) | (high > size + SLACK)).any(axis=1)
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    gone = owners[firsts][np.logical_and.reduceat(outside, firsts)]
    annotations.note("polygon outside", gone, lambda i: f"has {_shown(annotations, i)}")
    annotations.note(
        "polygon beyond",
        _once(owners[beyond & ~np.isin(owners, gone)]),
        lambda i: "has a polygon that reaches beyond the image",
    )
    if crossings:
        annotations.note(
            "crossing polygon",
            _once(owners[outlines.crossing()]),
            lambda i: "has a polygon that crosses or touches itself",
        )


def _refuse_what_is_no_numbers(annotations: Entries, numbers: list[int]) -> list[int]:
    """The annotations whose segmentation is a list of lists of numbers that can be drawn."""
    masks = [annotations.items[i]["segmentation"] for i in numbers]
    parts = list(chain.from_iterable(masks))
    if set(map(type, parts)) <= {list}:
        flat = list(chain.from_iterable(parts))
        numeric = set(map(type, flat)) <= {int, float}
        if numeric and (np.abs(to_floats(flat)) <= LARGEST_COORDINATE).all():
            return numbers
    sound = []
    for i, mask in zip(numbers, masks, strict=True):
        faults = (
            fault_of_numbers(part, LARGEST_COORDINATE) if isinstance(part, list) else "wrong type"
            for part in mask
        )
        kind = next((fault for fault in faults if fault), None)
        if kind is None:
            sound.append(i)
        else:
            annotations.note(kind, [i], lambda i: f"has {_shown(annotations, i)}")
    return sound


def _note_rle_faults(annotations: Entries, numbers: list[int], sizes: np.ndarray) -> None:
    items = annotations.items
    sized = []
    for i in numbers:
        width, height = sizes[i]
        size = items[i]["segmentation"].get("size")
        integers = isinstance(size, list) and len(size) == 2 and set(map(type, size)) == {int}
        if integers and (size == [height, width] or np.isnan(width + height)):
            sized.append(i)
        else:
            annotations.note(
                "RLE size",
                [i],
                lambda i, s=size, w=width, h=height: (
                    f"has RLE of size {short(s)}, its image the size [{h:.0f}, {w:.0f}]"
                ),
            )
    counts = {i: items[i]["segmentation"].get("counts") for i in sized}
    packed = [i for i in sized if isinstance(counts[i], str)]
    values, begins, broken = decode_counts([counts[i] for i in packed])
    area = sizes[packed].prod(axis=1)
    sums, inside, negative = _sum_runs(values, begins)
    wrong = broken | negative | ((sums != area) & ~np.isnan(area))
    empty = ~wrong & (inside == 0)
    packed = np.array(packed, np.int64)
    bad, none = packed[wrong].tolist(), packed[empty].tolist()
    for i in sized:
        if not isinstance(counts[i], str):
            runs = counts[i]
            if (
                not isinstance(runs, list)
                or set(map(type, runs)) != {int}
                or min(runs) < 0
                or (sum(runs) != sizes[i].prod() and not np.isnan(sizes[i]).any())
            ):
                bad.append(i)
            elif sum(runs[1::2]) == 0:
                none.append(i)
    annotations.note("RLE counts", sorted(bad), lambda i: f"has the RLE counts {short(counts[i])}")
    annotations.note("empty RLE", sorted(none), lambda i: "has an RLE without a pixel")


def _sum_runs(values: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each mask: the sum of its counts, of those of pixels inside, and whether one is < 0."""
    totals = np.concatenate([[0], np.cumsum(values)])
    place = np.arange(len(values)) - np.repeat(begins[:-1], np.diff(begins))
    insides = np.concatenate([[0], np.cumsum(np.where(place % 2 == 1, values, 0))])
    negatives = np.concatenate([[0], np.cumsum(values < 0)])
    ends, starts = begins[1:], begins[:-1]
    return (
        totals[ends] - totals[starts],
        insides[ends] - insides[starts],
        negatives[ends] > negatives[starts],
    )


def _once(owners: np.ndarray) -> np.ndarray:
    return np.unique(owners)


def _shown(annotations: Entries, i: int) -> str:
    return f"segmentation={short(annotations.items[i]['segmentation'])}"


def _short_lengths(item: dict[str, Any]) -> str:
    lengths = (len(part) for part in item["segmentation"])
    return " and ".join(str(n) for n in lengths if n % 2 or n < 6)
