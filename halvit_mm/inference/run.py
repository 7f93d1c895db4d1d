"""A model on many files: reading, predicting in batches, writing, going on past what is bad."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from .images import read_image
from .inputs import InputFile, Inputs
from .lists import Seen
from .output import OutputFolder
from .results import Detections, Predictor, Result
from .videos import Video

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of a run.

    Attributes:
        images: How many images and frames there are results of.
        results: How many objects, or classified images.
        problems: What could not be read or looked at, a line each.
    """

    images: int
    results: int
    problems: tuple[str, ...]


def predict_files(
    predictor: Predictor,
    inputs: Inputs,
    output: OutputFolder,
    *,
    batch_size: int = 1,
    score_threshold: float = 0.3,
    every: int = 1,
) -> Summary:
    """Writes what a model finds in files.

    A terminal on stderr shows a bar of progress. Files that cannot be read are passed over and
    listed in the summary. Interrupted by Ctrl-C, it writes lists of what is done under names that
    say so.

    Args:
        predictor: The model.
        inputs: The files.
        output: Where to write.
        batch_size: How many images go through the model at once.
        score_threshold: Objects of lower scores are left out.
        every: Of videos each ``every``-th frame is taken.

    Raises:
        UserError: The disk is full.
    """
    from tqdm import tqdm

    output.start()
    with tqdm(total=len(inputs.files), unit=" images", disable=None) as progress:
        run = _Run(predictor, output, progress, batch_size, score_threshold, every)
        try:
            run.look_at(inputs.files)
        except KeyboardInterrupt:
            output.finish(whole=False)
            raise
    output.finish(whole=True)
    return Summary(
        images=output.lists.images,
        results=output.lists.results,
        problems=(*inputs.missing, *run.problems),
    )


class _Run:
    """What is under way: a batch that fills up, and problems met."""

    def __init__(
        self,
        predictor: Predictor,
        output: OutputFolder,
        progress: "tqdm",
        batch_size: int,
        score_threshold: float,
        every: int,
    ) -> None:
        self._predictor = predictor
        self._output = output
        self._progress = progress
        self._batch_size = batch_size
        self._score_threshold = score_threshold
        self._every = every
        self._batch: list[tuple[Seen, np.ndarray]] = []
        self.problems: list[str] = []

    def look_at(self, files: Sequence[InputFile]) -> None:
        for file in files:
            if file.is_video:
                self._flush()
                self._look_at_video(file)
            else:
                self._look_at_image(file)
        self._flush()

    def _look_at_image(self, file: InputFile) -> None:
        try:
            image = read_image(file.path)
        except UserError as error:
            self.problems.append(str(error))
            self._progress.update()
        else:
            self._take(Seen(path=file.path, name=file.name), image)

    def _look_at_video(self, file: InputFile) -> None:
        try:
            video = Video(file.path, every=self._every)
        except UserError as error:
            self.problems.append(str(error))
            self._progress.update()
            return
        self._progress.total += video.expected - 1
        with self._output.video(file.name, video.rate):
            for number, frame in self._readable(video):
                name = f"{file.name}/{number:06}"
                self._take(Seen(path=file.path, name=name, frame=number), frame)
            self._flush()

    def _readable(self, video: Video) -> Iterator[tuple[int, np.ndarray]]:
        """The frames until the end, or until the video turns out to be damaged."""
        try:
            yield from video
        except UserError as error:
            self.problems.append(str(error))

    def _take(self, seen: Seen, image: np.ndarray) -> None:
        self._batch.append((seen, image))
        if len(self._batch) >= self._batch_size:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch = self._batch, []
        for (seen, image), result in zip(batch, self._predict(batch), strict=True):
            if isinstance(result, Detections):
                result = result.above(self._score_threshold)
            if result is not None:
                self._output.add(seen, image, result)
            self._progress.update()

    def _predict(self, batch: Sequence[tuple[Seen, np.ndarray]]) -> list[Result | None]:
        """The results; None of an image that the model cannot take, which is noted."""
        if not batch:
            return []
        try:
            return list(self._predictor.predict([image for _, image in batch]))
        except UserError as error:
            if len(batch) > 1:  # which one is it?
                return [self._predict([one])[0] for one in batch]
            seen = batch[0][0]
            place = "" if seen.frame is None else f", frame {seen.frame}"
            self.problems.append(f"{seen.path}{place}: {error}")
            return [None]
