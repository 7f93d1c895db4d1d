"""The check of a data set of mmpretrain: folders of images, with or without a list of them."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from .check_classes import check_num_classes, configured_classes, shorten
from .check_paths import find_ann_file, find_images, find_root

FOLDER_TYPES = {"CustomDataset", "ImageNet", "ImageNet21k"}  # those that this file knows
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")


def check_folders(
    dataset: Mapping, *, option: str, num_classes: int | Mapping[str, int] | None = None
) -> None:
    """Checks that the images and their list are there and fit the model.

    Args:
        dataset: Config of a data set of one of :data:`FOLDER_TYPES`.
        option: Its path in the config.
        num_classes: The model's number of classes, or what ``count_classes`` found.

    Raises:
        UserError: Something is missing, empty, or contradicts the model.
    """
    root = find_root(dataset, option=option)
    split = dataset.get("split") or ""
    prefix = dataset.get("data_prefix") or split
    prefix = prefix.get("img_path", "") if isinstance(prefix, Mapping) else prefix
    folder = find_images(root, prefix, option=option)
    if not _has_image(folder):
        raise UserError(
            f"there is no image ({', '.join(_EXTENSIONS)}) in {folder}: correct "
            f"{option}.data_prefix, or fetch the data set"
        )
    classes = configured_classes(dataset, option=option, package="mmpretrain")
    labelled = dataset.get("with_label", split != "test")
    ann_file = dataset.get("ann_file")
    if not ann_file and split and (root / "meta" / f"{split}.txt").is_file():
        ann_file = f"meta/{split}.txt"  # as ImageNet does by itself

    if ann_file:
        file = find_ann_file(root, ann_file, option=option)
        largest = _check_list(file, folder, labelled)
        heads = [num_classes] if isinstance(num_classes, int) else (num_classes or {}).values()
        limit = min([*heads, *([len(classes)] if classes else [])], default=largest + 1)
        if largest >= limit:
            raise UserError(
                f"{file} has the label {largest}, but the model or {option} has {limit} classes, "
                "numbered from 0: correct the file or num_classes"
            )
    elif labelled:
        folders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if classes is not None and len(folders) != len(classes):
            raise UserError(
                f"{folder} has {len(folders)} folders, one a class, but {option} has "
                f"{shorten(classes)}: correct {option}.data_prefix or {option}.metainfo.classes"
            )
        if classes is not None and classes != folders == sorted(classes):
            raise UserError(
                f"the classes of {option} are the folders of {folder} in another order, which "
                "would exchange the names, as folders count in the order of the alphabet: sort "
                f"{option}.metainfo.classes"
            )
        classes = folders
    if classes is not None and labelled:
        check_num_classes(num_classes, classes, option=option)


def _has_image(folder: Path) -> bool:
    return any(
        name.lower().endswith(_EXTENSIONS) for _, _, names in os.walk(folder) for name in names
    )


def _check_list(file: Path, folder: Path, labelled: bool) -> int:
    """Checks a file with an image and its label a line; the largest label, -1 if there are none."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise UserError(f"{file} lists no images: the data set is empty, make it anew")
    names, largest = [], -1
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ") if labelled else (line, "", "-1")
        if not name or not label.lstrip("-").isdecimal():
            raise UserError(
                f"line {number} of {file} is not an image and its label, 'FILE NUMBER': correct it"
            )
        names.append(name)
        largest = max(largest, int(label))
    missing = [name for name in names if not os.path.isfile(folder / name)]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(names)} images that {file} lists are missing, first "
            f"{folder / missing[0]}: put them there or remove them from the list"
        )
    return largest
