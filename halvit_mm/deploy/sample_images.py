"""Real images to compare programs on: the user's, or two photographs that come with a package."""

from pathlib import Path

import numpy as np

from ..datasets.image_folders import list_images
from ..errors import UserError
from ..inference.images import read_image
from ..inference.inputs import IMAGES


def sample_images(folder: str | Path | None, *, limit: int = 4) -> list[np.ndarray]:
    """Reads some images.

    Args:
        folder: Where to look for them, at any depth; None: the two photographs of scikit-learn.
        limit: The most images to read. They are taken in equal steps from the sorted ones, as
            folders often hold one class after the other.

    Returns:
        Arrays (height, width, 3) of uint8 in RGB, at least one.

    Raises:
        UserError: There is no image, one cannot be read, or scikit-learn is missing.
    """
    if folder is None:
        return _photographs()[:limit]
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; name one with images")
    paths = list_images(folder, IMAGES)
    if not paths:
        raise UserError(f"{folder}: there is no image ({', '.join(IMAGES)}) in this folder")
    step = max(len(paths) // limit, 1)
    return [read_image(path) for path in paths[::step][:limit]]


def _photographs() -> list[np.ndarray]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise UserError(
            "scikit-learn, whose two photographs are the default, is not installed: run "
            "pip install scikit-learn, or name a folder of images"
        ) from None
    return list(load_sample_images().images)
