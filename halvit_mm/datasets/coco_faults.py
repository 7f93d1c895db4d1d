"""Everything that is wrong with the content of a file in COCO's format.

Whether the files of the images are there is :mod:`~halvit_mm.datasets.check_coco`'s to say. What
happens to each fault is written in :mod:`~halvit_mm.datasets.coco_rules`.
"""

from collections.abc import Collection
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from .coco_columns import ABSENT, NO_INTEGER, Entries, short
from .coco_json import Parsed
from .coco_masks import note_mask_faults
from .coco_rules import LARGEST_COORDINATE, LARGEST_IMAGE, SLACK
from .faults import Faults

_FLAGS = (0, 1)  # True and False are equal to them


def note_coco_faults(
    parsed: Parsed,
    faults: Faults,
    *,
    masks: bool,
    classes: Collection[str] | None = None,
    min_size: float = 0,
    crossings: bool = False,
) -> None:
    """Notes what is wrong with a file's images, categories and annotations.

    Takes some seconds for a hundred thousand images with a million annotations, and less memory
    than their JSON.

    Args:
        parsed: A file whose ``images``, ``categories`` and, if it has them, ``annotations`` are
            lists.
        faults: Takes what is wrong.
        masks: Whether segmentations are used; else they are not looked at.
        classes: Names of the categories that are used; None for all.
        min_size: Images with a shorter side are left out of training.
        crossings: Whether to look for polygons that cross themselves, which is no mistake.
    """
    faults.add_all("repeated key", parsed.repeated, _describe_repeated)
    faults.add_all(
        "not JSON",
        range(parsed.constants),
        lambda i: dict(sentence="NaN or Infinity stands in the file"),
    )
    content = parsed.content
    images = Entries("image", content["images"], faults)
    image_ids, sizes = _note_image_faults(images, min_size)
    categories = Entries("category", content["categories"], faults)
    category_ids, used = _note_category_faults(categories, classes)
    annotations = Entries("annotation", content.get("annotations") or [], faults)
    _note_annotation_faults(annotations, image_ids, sizes, category_ids, used, masks, crossings)


def _describe_repeated(place: tuple[str, dict]) -> dict[str, Any]:
    key, entry = place
    name = f"the object with id {short(entry['id'])}" if "id" in entry else "an object"
    return dict(sentence=f"{name} has the key {short(key)} more than once")


def _note_image_faults(images: Entries, min_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids (N), and the sizes (N, 2): width and height, NaN where they are no sizes."""
    ids = images.integers("id")
    images.note_repeated("id", ids.tolist(), "repeated image id")
    sizes = np.stack([_as_floats(images.integers(key)) for key in ("width", "height")], axis=1)
    none = (sizes <= 0).any(axis=1)
    huge = (sizes > LARGEST_COORDINATE).any(axis=1) | (sizes.prod(axis=1) > LARGEST_IMAGE)
    huge &= ~none

    def size_of(i: int) -> str:
        return f"has {sizes[i, 0]:.0f} × {sizes[i, 1]:.0f} pixels"

    images.note("image size", none, size_of)
    images.note("absurd number", huge, size_of)
    images.note("small image", ~none & (sizes.min(axis=1, initial=np.inf) < min_size), size_of)
    sizes[none | huge] = np.nan

    names = images.texts("file_name")
    images.note_repeated("file_name", names, "repeated file name")
    first: dict[str, str] = {}
    alike = [
        i
        for i, name in enumerate(names)
        if name is not None and first.setdefault(name.casefold(), name) != name
    ]
    images.note(
        "similar file names",
        alike,
        lambda i: f"is in {short(names[i])}, another one in {short(first[names[i].casefold()])}",
    )
    leading = [i for i, name in enumerate(names) if name is not None and _leads_out(name)]
    images.note("outside the folder", leading, lambda i: f"is in {short(names[i])}")
    return ids, sizes


def _leads_out(name: str) -> bool:
    if name[0] not in "./\\" and ".." not in name and ":" not in name:
        return False  # most names, and quickly
    paths = PurePosixPath(name), PureWindowsPath(name)
    return any(path.is_absolute() or ".." in path.parts for path in paths)


def _note_category_faults(
    categories: Entries, classes: Collection[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids (N), and which ones are used, (N) bool."""
    ids = categories.integers("id")
    categories.note_repeated("id", ids.tolist(), "repeated category id")
    names = categories.texts("name")
    categories.note_repeated("name", names, "repeated category name")
    return ids, np.array([classes is None or name in classes for name in names], bool)


def _note_annotation_faults(
    annotations: Entries,
    image_ids: np.ndarray,
    image_sizes: np.ndarray,
    category_ids: np.ndarray,
    used_categories: np.ndarray,
    masks: bool,
    crossings: bool,
) -> None:
    ids = annotations.integers("id")
    annotations.note_repeated("id", ids.tolist(), "repeated annotation id")
    annotations.note("id 0", ids == 0, lambda i: "has the id 0")
    of_image = annotations.integers("image_id")
    of_category = annotations.integers("category_id")
    lost = ~np.isin(of_image, image_ids) & (of_image != NO_INTEGER)
    annotations.note("unknown image", lost, lambda i: f"has no image {of_image[i]} in the file")
    strange = ~np.isin(of_category, category_ids) & (of_category != NO_INTEGER)
    annotations.note(
        "unknown category", strange, lambda i: f"has category_id={of_category[i]}, which is none"
    )
    used = np.isin(of_category, category_ids[used_categories]) & (of_category != NO_INTEGER)
    sizes = _look_up(image_ids, image_sizes, of_image)
    loaded = used & _note_box_faults(annotations, sizes) & _note_flag_faults(annotations)
    if masks:
        needed = used if annotations.faults.evaluated else loaded
        note_mask_faults(annotations, sizes, needed, crossings=crossings)


def _note_box_faults(annotations: Entries, sizes: np.ndarray) -> np.ndarray:
    """Returns which annotations have a box and area for which mmdet does not leave them out."""
    boxes = annotations.numbers("bbox", count=4, limit=LARGEST_COORDINATE)
    area = annotations.numbers("area", limit=LARGEST_COORDINATE**2)[:, 0]
    start, extent = boxes[:, :2], boxes[:, 2:]
    # The overlap with the image as mmdet's CocoDataset computes it.
    overlap = (np.minimum(start + extent, sizes) - np.maximum(start, 0)).clip(min=0)
    negative = (extent < 0).any(axis=1)
    tiny = (extent < 1).any(axis=1) & ~negative
    outside = (overlap.prod(axis=1) == 0) & ~negative & ~tiny
    beyond = ((start < -SLACK) | (start + extent > sizes + SLACK)).any(axis=1)

    def box_of(i: int) -> str:
        width, height = sizes[i]
        image = "" if np.isnan(width) else f", its image {width:.0f} × {height:.0f} pixels"
        return f"has the box {short(annotations.items[i]['bbox'])}{image}"

    def area_of(i: int) -> str:
        return f"has area={short(annotations.items[i]['area'])}"

    annotations.note("negative size", negative, box_of)
    annotations.note("no size", tiny, box_of)
    annotations.note("box outside", outside, box_of)
    annotations.note("box beyond", beyond & ~outside & ~negative & ~tiny, box_of)
    annotations.note("negative area", area < 0, area_of)
    annotations.note("no area", area == 0, area_of)
    annotations.note("large area", area > sizes.prod(axis=1), area_of)
    return (overlap.prod(axis=1) > 0) & (extent >= 1).all(axis=1) & (area > 0)


def _note_flag_faults(annotations: Entries) -> np.ndarray:
    """Returns which annotations are not to be ignored."""
    crowd = annotations.values("iscrowd", needed=False)
    ignore = annotations.values("ignore", needed=False)
    absent = [i for i, flag in enumerate(crowd) if flag is ABSENT]
    annotations.note("no crowd flag", absent, lambda i: "lacks 'iscrowd'")
    odd = [i for i, flag in enumerate(crowd) if flag is not ABSENT and not _is_flag(flag)]
    annotations.note("crowd flag", odd, lambda i: f"has iscrowd={short(crowd[i])}")
    odd = [i for i, flag in enumerate(ignore) if flag is not ABSENT and not _is_flag(flag)]
    annotations.note(
        "wrong type", odd, lambda i: f"has ignore={short(ignore[i])}, which is neither 0 nor 1"
    )
    ignored = np.array([flag is not ABSENT and flag in _FLAGS and flag for flag in ignore], bool)
    annotations.note("ignore flag", ignored, lambda i: "has ignore set")
    return ~ignored


def _is_flag(value: Any) -> bool:
    return isinstance(value, int) and value in _FLAGS


def _as_floats(integers: np.ndarray) -> np.ndarray:
    return np.where(integers == NO_INTEGER, np.nan, integers.astype(np.float64))


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The row of ``values`` whose key is wanted, for each; of several the last; else NaN."""
    order = np.argsort(keys, kind="stable")
    ranks = np.searchsorted(keys[order], wanted, side="right") - 1
    found = np.full((len(wanted), values.shape[1]), np.nan)
    known = ranks >= 0
    rows = order[ranks[known]]
    matches = (keys[rows] == wanted[known]) & (wanted[known] != NO_INTEGER)
    found[np.flatnonzero(known)[matches]] = values[rows[matches]]
    return found
