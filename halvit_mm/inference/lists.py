"""What a run found, as the lists that it writes at its end."""

import csv
import json
import os
import shutil
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO

from .coco import (
    DETECTION_COLUMNS,
    category_ids,
    coco_results,
    detection_rows,
    top_entries,
)
from .results import Detections, Result

RESULTS, IMAGES, SUMMARY = LISTS = ("results.json", "images.json", "summary.csv")
_IN_MEMORY = 2**20  # bytes of each of them


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

    Memory holds little of them, however many there are: the rest waits in files without a name.

    Args:
        folder: Where these files are, so that they fill no other disk.
        rle: Whether masks stand in ``results.json``.
        top_k: How many classes of a classifier.
    """

    def __init__(self, folder: Path, *, rle: bool, top_k: int) -> None:
        self._rle = rle
        self._top_k = top_k
        self.images = 0
        self.results = 0
        self._texts = {name: _Text(folder) for name in LISTS}
        self._columns: list[str] = []
        self._categories: list[dict[str, Any]] | None = None

    def add(self, seen: Seen, result: Result) -> None:
        """Takes up what was found in an image.

        Raises:
            OSError: The disk is full.
        """
        height, width = result.size
        place = dict(file_name=seen.path.as_posix(), width=width, height=height, name=seen.name)
        if seen.frame is not None:
            place["frame"] = seen.frame
        self.images += 1
        start = [place["file_name"], place.get("frame", "")]
        if isinstance(result, Detections):
            entries = coco_results(result, image_id=self.images, with_masks=self._rle)
            rows = [[*start, *row] for row in detection_rows(result)]
            self._columns = ["file", "frame", *DETECTION_COLUMNS]
            self._categories = [
                dict(id=i, name=name)
                for i, name in zip(category_ids(result.classes), result.classes, strict=True)
            ]
        else:
            top = top_entries(result, self._top_k)
            entries = [dict(image_id=self.images, **place, top=top)]
            rows = [[*start, *(v for entry in top for v in (entry["class"], entry["score"]))]]
            numbered = [(f"class_{i + 1}", f"score_{i + 1}") for i in range(len(top))]
            self._columns = ["file", "frame", *(name for pair in numbered for name in pair)]
        self._texts[IMAGES].add(_entry(dict(id=self.images, **place), first=self.images == 1))
        for entry in entries:
            self._texts[RESULTS].add(_entry(entry, first=self.results == 0))
            self.results += 1
        self._texts[SUMMARY].add(_table(rows))

    def write(self, name: str, file: BinaryIO) -> None:
        """Writes one of :data:`LISTS`, with all that has been added."""
        begin, end = {
            RESULTS: ("[", "\n]\n"),
            IMAGES: ('{"images": [', f"\n]{self._rest()}}}\n"),
            SUMMARY: (_table([self._columns]), ""),
        }[name]
        file.write(_encode(begin))
        self._texts[name].copy_to(file)
        file.write(_encode(end))

    def _rest(self) -> str:
        """What COCO's own reader asks for beside the images."""
        if self._categories is None:
            return ""
        return f', "annotations": [], "categories": {json.dumps(self._categories)}'


class _Text:
    """Text that grows, in memory until it is long, and then in a file without a name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: SpooledTemporaryFile | None = None

    def add(self, text: str) -> None:
        if self._file is None:
            self._file = SpooledTemporaryFile(_IN_MEMORY, dir=self._folder)  # noqa: SIM115
        self._file.write(_encode(text))

    def copy_to(self, file: BinaryIO) -> None:
        if self._file is not None:
            self._file.seek(0)
            shutil.copyfileobj(self._file, file)
            self._file.seek(0, os.SEEK_END)


def _entry(entry: dict[str, Any], *, first: bool) -> str:
    """One of a JSON list, on a line of its own, for people and for `diff`."""
    return f"{'' if first else ','}\n{json.dumps(entry)}"


def _table(rows: list[list[Any]]) -> str:
    table = StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue()


def _encode(text: str) -> bytes:
    # Names of files may be bytes that are no text.
    return text.encode("utf-8", errors="surrogateescape")
