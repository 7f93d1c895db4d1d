"""Writing a data set in COCO's format: whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import UserError

# The ways in which writing fails that the user can put right.
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}


@contextmanager
def staged_folder(root: Path) -> Iterator[Path]:
    """Yields an empty folder beside ``root`` that takes its place when the block ends well.

    Whatever was at ``root`` goes away in that moment, not before. If the block raises, ``root``
    stays as it was and the new folder is removed.

    Raises:
        UserError: The disk is full or the place cannot be written to.
    """
    staging = root.with_name(f".{root.name}.{os.getpid()}.new")
    outgoing = root.with_name(f".{root.name}.{os.getpid()}.old")
    try:
        staging.mkdir(parents=True)
        yield staging
        if root.exists():
            root.rename(outgoing)
        staging.rename(root)
    except OSError as error:
        if error.errno not in _DENIED:
            raise
        raise UserError(
            f"cannot write {root}: {error.strerror}; choose a folder that you may write to, "
            "on a disk with room"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(outgoing, ignore_errors=True)


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
