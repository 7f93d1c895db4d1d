"""A picture of predictions: of a detector, ground truth beside what it found in a sample of images.

What a classifier predicts becomes the page of ``mistakes_page``.
"""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from os.path import basename
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..inference.images import read_image
from .dumps import read_predictions
from .files import png_file
from .grid import Instance, Pair, compose, draw_instances
from .mistakes import is_classifier
from .mistakes_page import draw_mistakes

if TYPE_CHECKING:
    from mmengine import Config
    from pycocotools.coco import COCO


def draw_predictions(
    cfg: "Config",
    predictions: str | Path,
    out: str | Path,
    *,
    num: int | None = None,
    score_thr: float = 0.5,
) -> None:
    """Draws what a detector or a classifier predicts for the test set of its config.

    Of a detector ``num`` images are drawn, each with its ground truth and its predictions. They lie
    evenly over the file of predictions. Masks are drawn, on both sides, where the model predicts
    masks. Of a classifier the page shows which classes it confuses and its ``num`` worst mistakes.

    Args:
        cfg: Config whose ``test_dataloader`` was tested.
        predictions: What ``tools/test.py --out`` wrote.
        out: PNG to write.
        num: Number of images, by default 8 of a detector and 18 of a classifier; all of them where
            there are fewer.
        score_thr: A detector's predictions below this score are left out.

    Raises:
        UserError: A file is missing or damaged, ``out`` cannot be written, or the predictions
            belong to another data set.
    """
    if num is not None and num < 1:
        raise UserError(f"--num {num}: there is nothing to draw; give 1 or more")
    with png_file(out) as file:
        samples = read_predictions(predictions)
        if is_classifier(samples):
            page = draw_mistakes(cfg, samples, predictions, num=num or 18)
        else:
            page = draw_detections(cfg, samples, predictions, num=num or 8, score_thr=score_thr)
        page.save(file, format="PNG")


def draw_detections(
    cfg: "Config",
    samples: Sequence[dict[str, Any]],
    predictions: str | Path,
    *,
    num: int,
    score_thr: float,
) -> Image.Image:
    """Draws images of the test set with their ground truth and what a detector found.

    Args:
        cfg: As in :func:`draw_predictions`.
        samples: A dict for each image, as mmdet's ``DumpDetResults`` writes them. The keys used are
            ``img_id``, ``pred_instances`` (``bboxes`` (N, 4) as x1, y1, x2, y2 in pixels of the
            original image, ``scores`` (N), ``labels`` (N) and, for models with masks, ``masks``: N
            of COCO's run-length encodings or polygons) and, where present, ``img_path`` and
            ``ori_shape``.
        predictions: Where they come from, for messages.
        num: Number of images; all of them where there are fewer.
        score_thr: Predictions below this score are left out.

    Raises:
        UserError: The predictions are no detector's, or of another data set.
    """
    if not all("pred_instances" in sample and "img_id" in sample for sample in samples):
        raise UserError(
            f"{predictions}: there are neither boxes nor classes in it; give what tools/test.py "
            "--out wrote"
        )
    dataset = read_dataset(cfg)
    dataset.check(samples, predictions)
    chosen = np.linspace(0, len(samples) - 1, min(num, len(samples))).round().astype(int)
    pairs = [_pair(dataset, samples[i], score_thr) for i in chosen]
    # The name of a single class stands at the top and not on each object.
    only = f" ({dataset.names[0]})" if len(dataset.names) == 1 else ""
    return compose(pairs, titles=(f"ground truth{only}", f"prediction{only}"))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set in COCO's format, seen as the config of a detector sees it.

    Attributes:
        coco: The annotations.
        ann_file: Where they come from.
        image_folder: What the images' file names are relative to.
        category_ids: Ids of the categories that the detector knows; their order gives the labels.
    """

    coco: "COCO"
    ann_file: Path
    image_folder: Path
    category_ids: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels."""
        return tuple(self.coco.cats[category]["name"] for category in self.category_ids)

    def name(self, label: int) -> str:
        """What to write beside an object of this class: nothing if there is only one class."""
        return self.names[label] if len(self.category_ids) > 1 else ""

    def image(self, image_id: int | str) -> Image.Image:
        """The image, turned upright as it is for the detector.

        Raises:
            UserError: The image is missing or damaged.
        """
        file = self.image_folder / self.coco.imgs[image_id]["file_name"]
        if not file.exists():
            raise UserError(
                f"{file}: {self.ann_file} names this image, but it is not there; "
                "check data_prefix and data_root in the config"
            )
        return Image.fromarray(read_image(file))

    def objects(self, image_id: int | str, *, masks: bool) -> list[Instance]:
        """The ground truth of one image: what the detector knows of, crowds included."""
        labels = {category: label for label, category in enumerate(self.category_ids)}
        instances = []
        for annotation in self.coco.imgToAnns[image_id]:
            label = labels.get(annotation["category_id"])
            if label is None or annotation.get("ignore"):
                continue
            x, y, width, height = annotation["bbox"]
            segmentation = annotation.get("segmentation") if masks else None
            crowd = " crowd" if annotation.get("iscrowd") else ""
            instances.append(
                Instance(
                    label=label,
                    name=(self.name(label) + crowd).strip(),
                    box=(x, y, x + width, y + height),
                    mask=self._mask(image_id, segmentation),
                )
            )
        return instances

    def predictions(self, sample: dict[str, Any], *, score_thr: float) -> list[Instance]:
        """The predictions of one image that reach the threshold."""
        found = sample["pred_instances"]
        boxes, scores, labels = (np.asarray(found[key]) for key in ("bboxes", "scores", "labels"))
        masks = found.get("masks")
        return [
            Instance(
                label=int(labels[i]),
                name=self.name(labels[i]),
                box=tuple(boxes[i].tolist()),
                score=float(scores[i]),
                mask=None if masks is None else self._mask(sample["img_id"], masks[i]),
            )
            for i in np.flatnonzero(scores >= score_thr)
        ]

    def check(self, samples: Sequence[dict[str, Any]], path: str | Path) -> None:
        """Finds out whether predictions belong to this data set.

        Raises:
            UserError: They name images or classes that are not in it.
        """
        cure = "give the predictions of this config's test set, or the config that was tested"
        for sample in samples:
            image = self.coco.imgs.get(image_id := sample["img_id"])
            if image is None:
                raise UserError(
                    f"{path}: predictions of another data set, {self.ann_file} has no image with "
                    f"id {image_id}; {cure}"
                )
            # Ids often count from 1, so that another data set's fit by chance.
            size = (image["height"], image["width"])
            if tuple(sample.get("ori_shape", size))[:2] != size or basename(
                sample.get("img_path", image["file_name"])
            ) != basename(image["file_name"]):
                raise UserError(
                    f"{path}: predictions of another data set, image {image_id} is not "
                    f"{image['file_name']} of {self.ann_file}; {cure}"
                )
            labels = np.asarray(sample["pred_instances"]["labels"])
            if labels.size and labels.max() >= len(self.category_ids):
                raise UserError(
                    f"{path}: the model knows a class number {labels.max()}, but the test set has "
                    f"{len(self.category_ids)} classes, counted from 0; {cure}"
                )

    def _mask(self, image_id: int | str, segmentation: Any) -> np.ndarray | None:
        """(H, W) of 0 and 1 from polygons or a run-length encoding."""
        if not segmentation:
            return None
        return self.coco.annToMask({"image_id": image_id, "segmentation": segmentation})


def read_dataset(cfg: "Config") -> Dataset:
    """Reads the annotations that ``test_dataloader`` of a config names.

    Raises:
        UserError: The config has no such thing, or the file is missing or damaged.
    """
    dataset = (cfg.get("test_dataloader") or {}).get("dataset", {})
    while "dataset" in dataset:  # wrappers, such as one that repeats
        dataset = dataset["dataset"]
    if not dataset.get("ann_file"):
        raise UserError(
            f"{cfg.filename}: test_dataloader names no annotation file; "
            "give the config of a detector on a data set in COCO's format"
        )
    root = Path(dataset.get("data_root") or "")
    ann_file = root / dataset["ann_file"]
    try:
        # pycocotools tells on stdout what it is doing.
        with redirect_stdout(StringIO()):
            from pycocotools.coco import COCO

            coco = COCO(str(ann_file))
    except FileNotFoundError:
        raise UserError(
            f"{ann_file}: there is no such annotation file; "
            "check ann_file and data_root in the config's test_dataloader"
        ) from None
    except OSError as error:
        raise UserError(f"{ann_file}: cannot read the annotations ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AssertionError) as error:
        raise UserError(f"{ann_file}: no annotations in COCO's format ({error})") from error

    # As mmdet's CocoDataset does it: the order is that of the file, not that of `classes`.
    known = dataset.get("metainfo", {}).get("classes")
    category_ids = tuple(
        category["id"]
        for category in coco.dataset.get("categories", [])
        if known is None or category["name"] in known
    )
    return Dataset(
        coco=coco,
        ann_file=ann_file,
        image_folder=root / dataset.get("data_prefix", {}).get("img", ""),
        category_ids=category_ids,
    )


def _pair(dataset: Dataset, sample: dict[str, Any], score_thr: float) -> Pair:
    image_id = sample["img_id"]
    image = dataset.image(image_id)
    truth = dataset.objects(image_id, masks="masks" in sample["pred_instances"])
    found = dataset.predictions(sample, score_thr=score_thr)
    name = basename(dataset.coco.imgs[image_id]["file_name"])
    return Pair(
        left=draw_instances(image, truth),
        right=draw_instances(image, found),
        left_caption=f"{name}: {_count(truth, 'object')}",
        right_caption=f"{_count(found, 'prediction')}, score ≥ {score_thr:g}",
    )


def _count(instances: Sequence[Instance], noun: str) -> str:
    return f"{len(instances)} {noun}{'' if len(instances) == 1 else 's'}"
