"""Results in the forms that others read: COCO's lists, masks as images, rows of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .results import Classification, Detections

# COCO has 80 classes with ids from 1 to 90; these are not used.
_NOT_IN_COCO = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_COCO_IDS = tuple(i for i in range(1, 91) if i not in _NOT_IN_COCO)

#: Digits kept of lengths in pixels and of scores.
_LENGTH, _SCORE = 4, 6


def category_ids(classes: Sequence[str]) -> tuple[int, ...]:
    """The ids that results give to classes.

    Those of COCO, where these are COCO's 80 classes in their order; else the class's number, from
    1, which is what most sets in this format use. ``images.json`` has them with the names.
    """
    if len(classes) == len(_COCO_IDS) and (classes[0], classes[-1]) == ("person", "toothbrush"):
        return _COCO_IDS
    return tuple(range(1, len(classes) + 1))


def coco_results(
    detections: Detections, *, image_id: int, with_masks: bool = True
) -> list[dict[str, Any]]:
    """Detections of an image as the results format of COCO has them.

    Args:
        detections: What was found.
        image_id: The image's id.
        with_masks: Adds masks, if there are any, as compressed run-length encodings.

    Returns:
        A dict each, with ``image_id``, ``category_id`` (see :func:`category_ids`), ``bbox`` as
        x, y, width, height in pixels, ``score`` and, with masks, ``segmentation``.
    """
    ids = category_ids(detections.classes)
    corners = detections.boxes.astype(float)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    entries = [
        dict(
            image_id=image_id,
            category_id=ids[label],
            bbox=[round(value, _LENGTH) for value in box],
            score=round(float(score), _SCORE),
        )
        for label, box, score in zip(
            detections.labels, boxes.tolist(), detections.scores, strict=True
        )
    ]
    if with_masks and detections.masks is not None:
        for entry, mask in zip(entries, detections.masks, strict=True):
            entry["segmentation"] = run_lengths(mask)
    return entries


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask (height, width) as COCO's compressed run-length encoding: ``size``, ``counts``."""
    from pycocotools.mask import encode

    encoded = encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=list(map(int, encoded["size"])), counts=encoded["counts"].decode("ascii"))


def instance_map(detections: Detections) -> np.ndarray:
    """Masks as one image: 0 where there is nothing, else the number of the object, from 1.

    Objects count in the order of the results, best first; where they overlap the better one shows.

    Returns:
        (height, width), uint8, or uint16 for more than 255 objects.
    """
    numbers = np.zeros(detections.size, np.uint8 if len(detections) < 256 else np.uint16)
    for i in reversed(range(len(detections))):
        numbers[detections.masks[i]] = i + 1
    return numbers


def top_entries(classification: Classification, k: int) -> list[dict[str, Any]]:
    """The ``k`` likeliest classes, best first: ``class``, its ``index`` from 0, its ``score``."""
    best = np.argsort(-classification.scores, kind="stable")[:k]
    return [
        {
            "class": classification.classes[i],
            "index": int(i),
            "score": round(float(classification.scores[i]), _SCORE),
        }
        for i in best
    ]


def detection_rows(detections: Detections) -> list[list[Any]]:
    """A row for each object, under :data:`DETECTION_COLUMNS`."""
    rows = []
    for i, label in enumerate(detections.labels):
        area = "" if detections.masks is None else int(detections.masks[i].sum())
        box = [round(value, 2) for value in detections.boxes[i].astype(float).tolist()]
        score = round(float(detections.scores[i]), _SCORE)
        rows.append([detections.classes[label], score, *box, area])
    return rows


#: What a row says of an object: lengths in pixels, the mask's area in square ones.
DETECTION_COLUMNS = ("class", "score", "x1", "y1", "x2", "y2", "mask_area")
