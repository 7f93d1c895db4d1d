"""What a run found, as the lists that it writes at its end."""

import csv
import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from .coco import (
    DETECTION_COLUMNS,
    category_ids,
    coco_results,
    detection_rows,
    top_entries,
)
from .results import Detections, Result

RESULTS, IMAGES, SUMMARY = LISTS = ("results.json", "images.json", "summary.csv")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An image that was looked at.

    Attributes:
        path: The file.
        name: What its results are called: a relative path without a suffix.
        frame: Its number from 0, of a frame of a video.
    """

    path: Path
    name: str
    frame: int | None = None


class ResultLists:
    """Collects results and gives them out as files of text.

    - ``results.json``: of a detector a list in COCO's results format; of a classifier an entry for
      each image with its likeliest classes.
    - ``images.json``: the images with their ids, sizes and names, and a detector's categories, as
      COCO describes test images: ``COCO("images.json").loadRes("results.json")`` joins the two.
    - ``summary.csv``: a row for each object, or for each image of a classifier.

    Args:
        rle: Whether masks stand in ``results.json``.
        top_k: How many classes of a classifier.
    """

    def __init__(self, *, rle: bool, top_k: int) -> None:
        self._rle = rle
        self._top_k = top_k
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._rows: list[list[Any]] = []
        self._columns: list[str] = []
        self._categories: list[dict[str, Any]] | None = None

    @property
    def images(self) -> int:
        """How many images there are results of."""
        return len(self._images)

    @property
    def results(self) -> int:
        """How many entries ``results.json`` has."""
        return len(self._results)

    def add(self, seen: Seen, result: Result) -> None:
        """Takes up what was found in an image."""
        height, width = result.size
        place = dict(file_name=seen.path.as_posix(), width=width, height=height, name=seen.name)
        if seen.frame is not None:
            place["frame"] = seen.frame
        image = dict(id=len(self._images) + 1, **place)
        self._images.append(image)
        start = [place["file_name"], place.get("frame", "")]
        if isinstance(result, Detections):
            self._results += coco_results(result, image_id=image["id"], with_masks=self._rle)
            self._rows += [[*start, *row] for row in detection_rows(result)]
            self._columns = ["file", "frame", *DETECTION_COLUMNS]
            self._categories = [
                dict(id=i, name=name)
                for i, name in zip(category_ids(result.classes), result.classes, strict=True)
            ]
        else:
            top = top_entries(result, self._top_k)
            self._results.append(dict(image_id=image["id"], **place, top=top))
            self._rows.append(
                [*start, *(v for entry in top for v in (entry["class"], entry["score"]))]
            )
            numbered = [(f"class_{i + 1}", f"score_{i + 1}") for i in range(len(top))]
            self._columns = ["file", "frame", *(name for pair in numbered for name in pair)]

    def texts(self) -> dict[str, str]:
        """The contents of the files by their names."""
        images: dict[str, Any] = dict(images=self._images)
        if self._categories is not None:
            # What COCO's own reader asks for beside the images.
            images |= dict(annotations=[], categories=self._categories)
        table = StringIO()
        csv.writer(table, lineterminator="\n").writerows([self._columns, *self._rows])
        return {
            RESULTS: _one_a_line(self._results),
            IMAGES: json.dumps(images, indent=1) + "\n",
            SUMMARY: table.getvalue(),
        }


def _one_a_line(entries: list[dict[str, Any]]) -> str:
    """A JSON list with a line for each entry, which stays readable by people and by `diff`."""
    return "[" + ",".join(f"\n{json.dumps(entry)}" for entry in entries) + "\n]\n"
