"""Thousands of pictures sent to the page, over HTTP, as visitors' browsers do it."""

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from ..datasets.image_folders import list_images
from ..errors import UserError
from .visitor import Visitor
from .watching import Watch, as_data, command, trends, trends_as_data

_MIB = 2**20
_START = 120  # seconds that a server has to come up


def soak_page(
    config: str | Path,
    checkpoint: str | Path,
    pictures: str | Path,
    work_dir: Path,
    *,
    images: int,
    visitors: int = 4,
    visit: int = 10,
    every: int = 50,
    warm_up: int = 1000,
    keep_minutes: float = 2.0,
    seconds: float = float("inf"),
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Serves a model with ``tools/serve.py``, sends pictures one by one and watches the server.

    Args:
        config: The model's config.
        checkpoint: Its weights.
        pictures: A folder of images, which come again and again.
        work_dir: An empty folder.
        images: How many to send, at least.
        visitors: How many there are at a time.
        visit: How many pictures each sends before another comes.
        every: Pictures from one sample to the next, at least.
        warm_up: Pictures that no trend counts.
        keep_minutes: Age from which on the server deletes pictures.
        seconds: Ends earlier, after so long.
        tell: Called with a line now and then.

    Returns:
        The samples and the trends per 1,000 pictures, for JSON.

    Raises:
        UserError: The server failed, or there are no pictures.
        PageError: A picture was not looked at.
    """
    files = list_images(Path(pictures))
    if not files:
        raise UserError(f"{pictures}: there is no image in this folder")
    temporary, log = work_dir / "tmp", work_dir / "output.txt"
    temporary.mkdir(parents=True)
    arguments = "serve.py", config, checkpoint, "--port", "0", "--keep-minutes", keep_minutes
    with command(*arguments, log=log, temporary=temporary) as server:
        url = _address(server, log)
        watch = Watch(server.pid, temporary=temporary)
        waiting = cycle(map(Path, files))
        done, end = 0, time.monotonic() + seconds
        watch.sample(done)
        with ThreadPoolExecutor(visitors) as crowd:
            while done < images and time.monotonic() < end:
                now = [islice(waiting, min(visit, images - done)) for _ in range(visitors)]
                done += sum(crowd.map(partial(_visit, url), [list(own) for own in now]))
                if done - watch.samples[-1].done >= every or done >= images:
                    held = watch.sample(done)
                    if len(watch.samples) % 10 == 0:
                        tell(f"{done}: {held.usage.anonymous / _MIB:.1f} MiB, {held.files} files")
    return {
        "config": str(config),
        "predictions": done,
        "visitors": visitors,
        "keep_minutes": keep_minutes,
        "warm_up_predictions": warm_up,
        "seconds": round(watch.samples[-1].seconds, 1),
        "per": "1,000 predictions",
        "trends": trends_as_data(
            trends(watch.samples, lambda s: s.done / 1000, warm_up=warm_up / 1000)
        ),
        "samples": as_data(watch.samples),
    }


def _visit(url: str, pictures: Sequence[Path]) -> int:
    """Sends pictures as one visitor; returns how many."""
    with Visitor(url) as visitor:
        for picture in pictures:
            visitor.send(picture)
    return len(pictures)


def _address(server: subprocess.Popen, log: Path) -> str:
    """Where the page is, once it says so.

    Raises:
        UserError: The server ended or did not come up.
    """
    end = time.monotonic() + _START
    while server.poll() is None and time.monotonic() < end:
        if found := re.search(r"open (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.2)
    raise UserError(f"tools/serve.py did not start: see {log}")
