"""Thousands of predictions by ``tools/predict.py`` in one process."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..datasets.image_folders import EXTENSIONS, list_images
from ..errors import UserError
from .watching import Watch, as_data, command, trends, trends_as_data


def soak_predicting(
    config: str | Path,
    checkpoint: str | Path,
    pictures: str | Path,
    work_dir: Path,
    *,
    images: int,
    interval: float = 2.0,
    warm_up: int = 1000,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Predicts so many images, of which each picture gives several, and watches the memory.

    Args:
        config: The model's config.
        checkpoint: Its weights.
        pictures: A folder of images, which come again and again.
        work_dir: An empty folder for inputs and results.
        images: How many to predict.
        interval: Seconds from one sample to the next.
        warm_up: Predictions that no trend counts.
        tell: Called with a line now and then.

    Returns:
        The samples and the trends per 1,000 predictions, for JSON.

    Raises:
        UserError: The command failed, or there are no pictures.
    """
    inputs, results, temporary = (work_dir / name for name in ("inputs", "results", "tmp"))
    for folder in (inputs, temporary):
        folder.mkdir(parents=True)
    repeat(Path(pictures), inputs, images)
    arguments = "predict.py", config, checkpoint, inputs, "--out", results
    with command(*arguments, log=work_dir / "output.txt", temporary=temporary) as process:
        watch = Watch(process.pid, temporary=temporary)
        while process.poll() is None:
            time.sleep(interval)
            try:
                seen = watch.sample(_count(results / "pictures"))
            except ProcessLookupError:  # it has just come to its end
                break
            if len(watch.samples) % 30 == 0:
                tell(f"{seen.done} images: {seen.usage.anonymous / 2**20:.1f} MiB")
        process.wait()
    return {
        "config": str(config),
        "predictions": _count(results / "pictures"),
        "warm_up_predictions": warm_up,
        "seconds": round(watch.samples[-1].seconds, 1),
        "per": "1,000 predictions",
        "trends": trends_as_data(
            trends(watch.samples, lambda s: s.done / 1000, warm_up=warm_up / 1000)
        ),
        "samples": as_data(watch.samples),
    }


def repeat(pictures: Path, folder: Path, number: int) -> None:
    """Fills a folder with so many files, by links to pictures that take turns.

    Raises:
        UserError: There are no pictures.
    """
    files = list_images(pictures)
    if not files:
        raise UserError(f"{pictures}: there is no image ({', '.join(EXTENSIONS)}) in this folder")
    for i in range(number):
        source = Path(files[i % len(files)]).resolve()
        (folder / f"{i:06}{source.suffix}").symlink_to(source)


def _count(folder: Path) -> int:
    """How many files lie below a folder."""
    return sum(len(names) for _, _, names in os.walk(folder))
