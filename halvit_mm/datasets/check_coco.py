"""The check of a data set in COCO's format."""

import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from .check_classes import check_num_classes, configured_classes, shorten, type_name
from .check_images import refuse_bad_images
from .check_paths import find_ann_file, find_images, find_root

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")


def check_coco(
    dataset: Mapping, *, option: str, num_classes: int | Mapping[str, int] | None = None
) -> None:
    """Checks the annotation file, its classes, and that all images are there and whole.

    Args:
        dataset: Config of a data set that mmdet's ``CocoDataset`` or a subclass reads.
        option: Its path in the config.
        num_classes: The model's number of classes, or what ``count_classes`` found.

    Raises:
        UserError: Something would stop or spoil the training.
    """
    root = find_root(dataset, option=option)
    if not dataset.get("ann_file"):
        raise UserError(f"{option}.ann_file is not set: name the annotation file there")
    file = find_ann_file(root, dataset["ann_file"], option=option)
    content = _load(file)
    if not _is_coco(content, annotated=not dataset.get("test_mode", False)):
        if type_name(dataset) != "CocoDataset":
            return  # another format
        raise UserError(
            f"{file} is not an annotation file in COCO's format, which has the lists 'images', "
            f"'annotations' and 'categories': correct {option}.ann_file"
        )

    for what in ("images", "annotations"):
        if content.get(what) == []:
            raise UserError(f"{file} lists no {what}: the data set is empty, make it anew")

    classes = configured_classes(dataset, option=option, package="mmdet")
    if classes is not None:
        _check_classes(content["categories"], classes, file, option)
        check_num_classes(num_classes, classes, option=option)
    _check_entries(dataset, content, classes, file)
    _check_image_files(dataset, root, content["images"], file, option)


def _load(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; make it readable") from error
    except ValueError as error:
        raise UserError(
            f"{file} is not valid JSON ({error}), perhaps it was cut off: fetch or make it anew"
        ) from error


def _is_coco(content: object, *, annotated: bool) -> bool:
    """Whether the lists are there; a test set may come without annotations."""
    if not isinstance(content, dict):
        return False
    content = content if annotated else {"annotations": [], **content}
    lists = [content.get(key) for key in ("images", "annotations", "categories")]
    return all(isinstance(a, list) and all(isinstance(e, dict) for e in a) for a in lists)


def _check_classes(categories: list[dict], classes: list[str], file: Path, option: str) -> None:
    """mmdet numbers the classes in the order of the file and passes over those it lacks."""
    _check_keys(categories, ("id", "name"), "category", file)
    names = [category["name"] for category in categories]
    missing = [name for name in classes if name not in names]
    if missing:
        lack = "none" if len(missing) == len(classes) else f"only {len(classes) - len(missing)}"
        raise UserError(
            f"{lack} of the {shorten(classes)} of {option} are among the categories of {file}, "
            f"which has {shorten(names)} and lacks {', '.join(map(repr, missing[:10]))}"
            f"{', …' if len(missing) > 10 else ''}: set {option}.metainfo to "
            f"dict(classes=({', '.join(map(repr, names[:5]))},{' …' if len(names) > 5 else ''})) "
            "or correct the file"
        )
    found = [name for name in names if name in classes]
    if found != classes:
        raise UserError(
            f"the categories of {file} come in the order {', '.join(map(repr, found))}, but "
            f"{option}.metainfo.classes in the order {', '.join(map(repr, classes))}, which would "
            "exchange the names: list each class once, in the order of the file"
        )


def _check_entries(dataset: Mapping, content: dict, classes: list[str] | None, file: Path) -> None:
    """The images and annotations of the file against each other."""
    images, annotations = content["images"], content.get("annotations")
    _check_keys(images, _IMAGE_KEYS, "image", file)
    if annotations is None:
        return
    _check_keys(annotations, _ANNOTATION_KEYS, "annotation", file)

    image_ids = {image["id"] for image in images}
    lost = [a for a in annotations if a["image_id"] not in image_ids]
    if lost:
        raise UserError(
            f"{len(lost)} of the {len(annotations)} annotations in {file} belong to an image_id "
            f"that is not among its images, first {lost[0]['image_id']!r} (annotation "
            f"{lost[0]['id']}): remove them or add the images"
        )
    wanted = {
        category["id"]
        for category in content["categories"]
        if classes is None or category["name"] in classes
    }
    used = [a for a in annotations if a["category_id"] in wanted]
    if not used:
        raise UserError(
            f"{file} has no annotation of "
            f"{'its categories' if classes is None else 'the ' + shorten(classes)}: the set is "
            "empty, so nothing can be learnt or measured; correct the file or the classes"
        )
    if _needs_masks(dataset):
        bare = [a for a in used if not a.get("segmentation") and a["area"] > 0]
        if bare:
            raise UserError(
                f"{len(bare)} of the {len(used)} annotations in {file} have no 'segmentation', "
                f"first annotation {bare[0]['id']}, but the pipeline loads masks: add the masks or "
                "train a detector of boxes"
            )


def _check_keys(entries: list[dict], keys: tuple[str, ...], what: str, file: Path) -> None:
    for number, entry in enumerate(entries):
        lacking = [key for key in keys if key not in entry]
        if lacking:
            raise UserError(
                f"{what} number {number} in {file} lacks {', '.join(map(repr, lacking))}: add it"
            )


def _needs_masks(dataset: Mapping) -> bool:
    return any(
        step.get("type") == "LoadAnnotations" and step.get("with_mask", False)
        for step in dataset.get("pipeline") or ()
    )


def _check_image_files(
    dataset: Mapping, root: Path, images: list[dict], file: Path, option: str
) -> None:
    prefix = dataset.get("data_prefix")
    if not isinstance(prefix, Mapping) or "img" not in prefix:
        raise UserError(
            f"{option}.data_prefix does not say where the images are: set it to dict(img='FOLDER/')"
        )
    folder = find_images(root, prefix["img"], option=option)
    refuse_bad_images(
        [folder / image["file_name"] for image in images],
        which=f"that {file} names",
        option=option,
    )
