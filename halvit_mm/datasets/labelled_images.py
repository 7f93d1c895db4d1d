"""Images with a class each, from folders or from npz archives."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..errors import UserError
from .image_archive import ImageArchive, find_archives

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@DATASETS.register_module()
class LabelledImages(BaseDataset):
    """Images of one split, each with its class, from folders or from an archive.

    ``data_root`` holds either ``<split>/<class>/*.jpg`` (or another kind of image, also in deeper
    folders), where the classes count in alphabetical order, or the archive ``<name>_<split>.npz``
    that :mod:`~halvit_mm.datasets.image_archive` describes, which stays packed. Images come decoded,
    so pipelines begin with what changes them: ``img`` is (height, width, 3), uint8, blue first as
    mmcv loads them, and ``gt_label`` is the class's number.

    Args:
        data_root: The folder.
        split: The split's name, e.g. ``"train"``.
        metainfo: ``classes``, where the names should differ from those of folders or archive; the
            order must not.
        pipeline: The transforms.
        test_mode: As every data set of mmengine has it; nothing depends on it.
        indices: Uses the first so many images, or those of these numbers.

    Raises:
        UserError: There are no images, or one cannot be read.
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
        self.split = split
        super().__init__(
            data_root=data_root,
            metainfo=metainfo,
            pipeline=list(pipeline),
            test_mode=test_mode,
            indices=indices,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        folder = Path(self.data_root, self.split)
        images = _list_folder(folder) if folder.is_dir() else self._list_archive()
        classes, entries = images
        self._metainfo.setdefault("classes", tuple(classes))
        return entries

    def _list_archive(self) -> tuple[Sequence[str], list[dict[str, Any]]]:
        archives = find_archives(Path(self.data_root))
        if self.split not in archives:
            raise UserError(
                f"{self.data_root} has neither a folder {self.split} nor an archive "
                f"*_{self.split}.npz: correct data_root or split"
            )
        # Bytes stay in one array, which worker processes share.
        self._archive = ImageArchive.read(
            archives[self.split], classes=self._metainfo.get("classes")
        )
        entries = [
            dict(number=number, gt_label=label)
            for number, label in enumerate(self._archive.label.tolist())
        ]
        return self._archive.classes, entries

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """An image with its class: ``img``, its shape, ``gt_label``, and where it came from."""
        info = super().get_data_info(idx)
        if "number" in info:
            encoded = self._archive.image(info["number"])
            source = f"{self._archive.file}, image {info['number']}"
        else:
            encoded, source = _read_bytes(info["img_path"]), info["img_path"]
        info["img"] = _decode(encoded, source)
        info["img_shape"] = info["ori_shape"] = info["img"].shape[:2]
        return info

    def get_cat_ids(self, idx: int) -> list[int]:
        """The image's class, for data sets and samplers that balance classes."""
        return [int(super().get_data_info(idx)["gt_label"])]


def _list_folder(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The classes in ``folder`` and the images in their folders."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    entries = [
        dict(img_path=str(path), gt_label=label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in EXTENSIONS
    ]
    if not entries:
        raise UserError(
            f"there is no image in the folders of {folder}: it must hold a folder a class"
        )
    return classes, entries


def _read_bytes(path: str) -> np.ndarray:
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read ({error.strerror})") from error


def _decode(encoded: np.ndarray, source: str) -> np.ndarray:
    """The image (height, width, 3), uint8, blue first."""
    import cv2

    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise UserError(f"{source}: this is no image that can be decoded; replace or remove it")
    return image
