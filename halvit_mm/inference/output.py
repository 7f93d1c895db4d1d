"""The folder of results: pictures and masks as they come, lists at the end."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ..engine.preflight import check_folder
from ..errors import UserError
from ..files import told, whole_file
from .coco import instance_map
from .drawing import draw
from .lists import LISTS, RESULTS, ResultLists, Seen
from .results import Detections, Result
from .videos import VideoWriter, video_file

Masks = Literal["rle", "png", "both", "none"]

_QUALITY = 92  # of JPEG pictures


class OutputFolder:
    """Writes what a model found, each file whole or not at all.

    ``pictures/<name>.jpg``, of a video ``.mp4``, shows it; ``masks/<name>.png`` has the masks (see
    :func:`instance_map`); the lists are those of :class:`ResultLists`. Until all is done they are
    called ``*.part.*``, and such a ``results.part.json`` lies there from the beginning.

    Args:
        root: The folder; made if need be.
        pictures: Whether to draw.
        masks: How masks are written: within ``results.json``, as images, both or neither.
        top_k: How many classes of a classifier are written.
        overwrite: Allows a folder with earlier results, which :meth:`start` removes.

    Raises:
        UserError: The folder is in use or cannot be written.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        pictures: bool = True,
        masks: Masks = "rle",
        top_k: int = 5,
        overwrite: bool = False,
    ) -> None:
        self.root = Path(root)
        self.lists = ResultLists(self.root, rle=masks in ("rle", "both"), top_k=top_k)
        self._pictures = pictures
        self._maps = masks in ("png", "both")
        self._top_k = top_k
        self._video: VideoWriter | None = None
        _check_free(self.root, overwrite)
        check_folder(self.root, "--out")

    def start(self) -> None:
        """Removes earlier results and marks the folder as unfinished."""
        for name in _own():
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        with whole_file(self.root / _part(RESULTS)) as temporary:
            temporary.write_text("[]\n")

    def add(self, seen: Seen, image: np.ndarray, result: Result) -> None:
        """Writes the picture and the masks of an image, (height, width, 3) uint8 in RGB.

        Raises:
            UserError: The disk is full.
        """
        if self._pictures:
            picture = draw(image, result, k=self._top_k)
            if self._video is not None:
                self._video.write(picture)
            else:
                _save(self.root / "pictures" / f"{seen.name}.jpg", picture, quality=_QUALITY)
        if self._maps and isinstance(result, Detections) and result.masks is not None:
            _save(self.root / "masks" / f"{seen.name}.png", instance_map(result))
        with told(self.root / _part(RESULTS)):
            self.lists.add(seen, result)

    @contextmanager
    def video(self, name: str, rate: float) -> Iterator[None]:
        """What is added in the block are frames of one video, ``rate`` a second.

        Raises:
            UserError: The disk is full.
        """
        if not self._pictures:
            yield
            return
        with video_file(self.root / "pictures" / f"{name}.mp4", rate) as self._video:
            try:
                yield
            finally:
                self._video = None

    def finish(self, *, whole: bool) -> None:
        """Writes the lists; those of a run that was interrupted are called ``*.part.*``.

        Raises:
            UserError: The disk is full.
        """
        # The results stand for all of it, and come last.
        for name in reversed(LISTS):
            target = self.root / (name if whole else _part(name))
            with whole_file(target) as temporary, temporary.open("wb") as file:
                self.lists.write(name, file)
        if whole:
            (self.root / _part(RESULTS)).unlink()


def _check_free(root: Path, overwrite: bool) -> None:
    if root.exists() and not root.is_dir():
        raise UserError(f"--out {root}: this is a file; name a folder")
    if not root.is_dir() or not any(root.iterdir()):
        return
    if not overwrite:
        raise UserError(
            f"--out {root}: the folder is not empty; name another one, or add --overwrite to "
            "replace earlier predictions in it"
        )
    # A mistyped folder must not lose pictures that were not made here.
    if not any((root / name).is_file() for name in (RESULTS, _part(RESULTS))):
        raise UserError(
            f"--out {root}: there are other things than predictions in this folder, which "
            "--overwrite does not touch; name another one"
        )


def _own() -> list[str]:
    return ["pictures", "masks", *LISTS, *map(_part, LISTS)]


def _part(name: str) -> str:
    path = Path(name)
    return f"{path.stem}.part{path.suffix}"


def _save(target: Path, pixels: np.ndarray, **options: int) -> None:
    kind = {".jpg": "JPEG", ".png": "PNG"}[target.suffix]
    with whole_file(target) as temporary:
        Image.fromarray(pixels).save(temporary, format=kind, **options)
