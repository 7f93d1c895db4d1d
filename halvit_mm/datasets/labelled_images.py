"""Images with a class each, from folders or from npz archives."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from ..errors import UserError
from .check_images import find_fault
from .image_archive import ImageArchive, find_archives, read_classes
from .image_folders import EXTENSIONS, check_other_names, list_classes, list_images, read_words


@DATASETS.register_module()
class LabelledImages(BaseDataset):
    """Images of one split, each with its class, from folders or from an archive.

    ``data_root`` holds either ``<split>/<class>/*.jpg`` (or another kind of image, also in deeper
    folders), where the classes count in alphabetical order, or the archive ``<name>_<split>.npz``
    that :mod:`~halvit_mm.datasets.image_archive` describes, which stays packed and is read once.
    Images come decoded, so that pipelines begin with what changes them: ``img`` is (height, width,
    3), uint8, blue first as mmcv loads them, and ``gt_label`` is the class's number. ``img_path``
    is the file; an image in an archive has the archive's path followed by its number.

    ``metainfo["classes"]`` are names that people read: those given, else the archive's ``names`` or
    what the file ``words.txt`` beside the splits calls the folders, else the classes' own names.

    Args:
        data_root: The folder.
        split: The split's name, e.g. ``"train"``.
        metainfo: ``classes``, where their names should differ; the order must not.
        pipeline: The transforms.
        test_mode: As every data set of mmengine has it; nothing depends on it.
        indices: Uses the first so many images, or those of these numbers.

    Raises:
        UserError: There are no images, one cannot be read, or ``classes`` does not fit.
    """

    def __init__(
        self,
        *,
        data_root: str,
        split: str,
        metainfo: dict | None = None,
        pipeline: Sequence[dict] = (),
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
    ) -> None:
        for step in pipeline:
            if isinstance(step, Mapping) and str(step["type"]).endswith("LoadImageFromFile"):
                raise UserError(
                    "the images of LabelledImages come loaded: remove LoadImageFromFile from the "
                    "pipeline"
                )
        self.split = split
        super().__init__(
            data_root=data_root,
            metainfo=metainfo,
            pipeline=list(pipeline),
            test_mode=test_mode,
            indices=indices,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """What the split holds; called by the constructor."""
        split = Split.find(self.data_root, self.split, self._metainfo.get("classes"))
        self._metainfo["classes"] = split.classes
        # One array holds the bytes of all images; worker processes that are forked share it.
        self._archive = split.archive
        absent = split.absent()
        if absent:
            print_log(
                f"{len(absent)} of the {len(split.classes)} classes have no image in "
                f"{split.source}, first {absent[0]!r}: there they are neither learnt nor measured",
                "current",
                logging.WARNING,
            )
        return split.entries

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """An image with its class: ``img``, its shape, ``gt_label`` and ``img_path``."""
        info = super().get_data_info(idx)
        if self._archive is None:
            encoded = _read_bytes(info["img_path"])
        else:
            encoded = self._archive.image(info.pop("number"))
        info["img"] = _decode(encoded, info["img_path"])
        info["img_shape"] = info["ori_shape"] = info["img"].shape[:2]
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """The image's class, for data sets and samplers that balance classes."""
        return [super().get_data_info(idx)["gt_label"]]


@dataclass(frozen=True)
class Split:
    """What there is of one split of a set, without its images' pixels.

    Attributes:
        source: The folder or the archive.
        classes: Names of the classes, as people read them.
        entries: An image each: ``img_path``, ``gt_label`` and, in an archive, its ``number``.
        archive: The archive, if it is one.
    """

    source: Path
    classes: tuple[str, ...]
    entries: list[dict[str, Any]]
    archive: ImageArchive | None = None

    @classmethod
    def find(
        cls, data_root: str | Path, split: str, classes: Sequence[str] | None = None
    ) -> "Split":
        """Lists a folder or reads an archive.

        Args:
            data_root: The folder of the set.
            split: The split's name.
            classes: Other names of the classes, in their order.

        Raises:
            UserError: There are no images, or ``classes`` does not fit.
        """
        source = find_source(data_root, split)
        if source.is_dir():
            return cls._list(source, classes)
        archive = ImageArchive.read(source, classes)
        entries = [
            dict(img_path=f"{source}/{number:05}", gt_label=label, number=number)
            for number, label in enumerate(archive.label.tolist())
        ]
        return cls(source, tuple(classes or archive.names), entries, archive)

    @classmethod
    def _list(cls, folder: Path, classes: Sequence[str] | None) -> "Split":
        folders = list_classes(folder)
        entries = [
            dict(img_path=path, gt_label=label)
            for label, name in enumerate(folders)
            for path in list_images(folder / name)
        ]
        if not entries:
            raise UserError(
                f"there is no image ({', '.join(EXTENSIONS)}) in the folders of {folder}, which "
                "must hold a folder a class: put the images there or correct data_root and split"
            )
        if classes is not None:
            check_other_names(classes, folders, folder)
        return cls(folder, tuple(classes or read_words(folder.parent, folders)), entries)

    def absent(self) -> list[str]:
        """The classes without an image."""
        present = {entry["gt_label"] for entry in self.entries}
        return [name for label, name in enumerate(self.classes) if label not in present]


def find_source(data_root: str | Path, split: str) -> Path:
    """The folder of a split or its archive.

    Raises:
        UserError: There is neither.
    """
    root = Path(data_root).expanduser()
    if (root / split).is_dir():
        return root / split
    archives = find_archives(root) if any(root.glob("*.npz")) else {}
    if split not in archives:
        raise UserError(
            f"{root} has neither a folder {split} nor an archive *_{split}.npz: correct data_root "
            "or split"
        )
    return archives[split]


def folder_names(data_root: str | Path, split: str) -> Sequence[str] | None:
    """What the classes of a split are called in folders; None for an archive that does not say.

    Raises:
        UserError: There is neither a folder nor a whole archive.
    """
    source = find_source(data_root, split)
    return list_classes(source) if source.is_dir() else read_classes(source)


def _read_bytes(path: str) -> np.ndarray:
    """A whole encoded image; an archive's are looked at once, when it is read.

    OpenCV would fill the rest of an image that was cut off with grey.
    """
    try:
        encoded = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read ({error.strerror})") from error
    fault = find_fault(encoded.tobytes())
    if fault is not None:
        raise _unreadable(path, fault)
    return encoded


def _decode(encoded: np.ndarray, path: str) -> np.ndarray:
    """The image (height, width, 3), uint8, blue first."""
    import cv2

    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    if image is None:
        raise _unreadable(path, "it cannot be decoded")
    return image


def _unreadable(path: str, fault: str) -> UserError:
    return UserError(f"{path}: the image cannot be read ({fault}): replace or remove it")
