"""Videos, frame by frame, in OpenCV."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from ..errors import UserError
from ..files import temporary_beside

# So many frames may be fewer than the file's index promises, which some formats only estimate.
_TOLERANCE = 0.02


class Video:
    """A video that is read once, from its beginning.

    Args:
        path: The file.
        every: Takes each ``every``-th frame, from the first one on.

    Attributes:
        rate: Frames a second of what is taken.
        expected: How many frames will be taken, as the file's index says; 0 if it does not.

    Raises:
        UserError: The file is missing or cannot be decoded.
    """

    def __init__(self, path: str | Path, *, every: int = 1) -> None:
        cv2 = _opencv()
        self._path = path
        self._every = every
        try:
            with open(path, "rb") as file:
                empty = not file.read(1)
        except OSError as error:
            raise UserError(f"{path}: the video cannot be read ({error.strerror})") from error
        if empty:
            raise UserError(f"{path}: the file is empty; copy the video again")
        self._capture = cv2.VideoCapture(_plain(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise UserError(
                f"{path}: the video cannot be decoded; it is damaged, or of a kind that OpenCV "
                "does not know: convert it to mp4"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = (rate if 0 < rate < 1000 else 25.0) / every
        self._promised = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.expected = -(-self._promised // every)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Frames with their numbers from 0: (height, width, 3) uint8, RGB, upright.

        Raises:
            UserError: At the end, where there were no frames or clearly fewer than promised.
        """
        count = 0
        try:
            while self._capture.grab():
                if count % self._every == 0:
                    decoded, frame = self._capture.retrieve()
                    if not decoded:
                        break
                    yield count, np.ascontiguousarray(frame[..., ::-1])
                count += 1
        finally:
            self._capture.release()
        if not count or count < self._promised * (1 - _TOLERANCE) - 1:
            raise UserError(
                f"{self._path}: the video is damaged or cut off, {count} of its {self._promised} "
                "frames can be decoded; copy it again"
            )


class VideoWriter:
    """Writes frames of one size as MPEG-4; see :func:`video_file`."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._writer = None
        self.count = 0

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame (height, width, 3) uint8, RGB; a row or column too many is cut off."""
        cv2 = _opencv()
        # The codec halves the resolution of colours.
        height, width = (max(2, side // 2 * 2) for side in frame.shape[:2])
        frame = np.pad(frame, [(0, max(0, 2 - side)) for side in frame.shape[:2]] + [(0, 0)])
        if self._writer is None:
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(
                _plain(self._path), cv2.CAP_FFMPEG, code, self._rate, (width, height)
            )
        self._writer.write(np.ascontiguousarray(frame[:height, :width, ::-1]))
        self.count += 1

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def video_file(target: Path, rate: float) -> Iterator[VideoWriter]:
    """A writer of frames, whose file becomes ``target`` when the block ends well.

    Nothing is written where there were no frames.

    Args:
        target: A file ``*.mp4``.
        rate: Frames a second.

    Raises:
        UserError: The disk is full, or the place cannot be written to.
    """
    with temporary_beside(target) as reserved:
        path = reserved.with_name(f"{reserved.name}.mp4")  # OpenCV takes the format from the suffix
        writer = VideoWriter(path, rate)
        try:
            yield writer
            writer.close()
            if writer.count:
                _check_written(path, writer.count, target)
                os.replace(path, target)
        finally:
            writer.close()
            path.unlink(missing_ok=True)


def _check_written(path: Path, count: int, target: Path) -> None:
    """OpenCV does not say that a disk is full."""
    cv2 = _opencv()
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if found != count:
        raise UserError(
            f"{target}: cannot write the video whole ({found} of {count} frames); make room, or "
            "choose another place"
        )


def _plain(path: str | Path) -> str:
    """The path as text; OpenCV takes the whole process down over bytes that are none.

    Raises:
        UserError: The name is not in UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = str(path).encode(errors="replace").decode()
        raise UserError(f"{shown}: the name is not in UTF-8; rename the video") from None
    return str(path)


def _opencv() -> ModuleType:
    # What FFmpeg says of damaged files is said better here. It reads this when it is first used.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
