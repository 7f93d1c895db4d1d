"""Writing a data set in COCO's format."""

import json
from pathlib import Path

import numpy as np


def mask_annotation(mask: np.ndarray) -> dict:
    """What COCO wants to know of one mask.

    Args:
        mask: (height, width), bool, at least one pixel set.

    Returns:
        ``segmentation`` (compressed RLE, its counts as text), ``area`` in pixels, ``bbox``
        (x, y, width, height) tight around the pixels, and ``iscrowd`` 0.
    """
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
        "area": int(mask.sum()),
        "bbox": coco_mask.toBbox(rle).tolist(),
        "iscrowd": 0,
    }


def write_instances(
    file: Path, *, info: dict, categories: list[str], images: list[dict], annotations: list[dict]
) -> None:
    """Writes an annotation file; categories are numbered from 1, annotations as they come."""
    content = {
        "info": info,
        "licenses": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, start=1)],
        "images": images,
        "annotations": [{"id": i, **entry} for i, entry in enumerate(annotations, start=1)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
