"""Small models with checkpoints, and what they are exported to."""

from pathlib import Path

import numpy as np
import pytest
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, detector_config, make_coco, make_folders

from halvit_mm.inference import load_model
from halvit_mm.inference.models import LoadedModel


@pytest.fixture(scope="session")
def classifier_files(tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a classifier of images of 32 pixels."""
    folder = tmp_path_factory.mktemp("classifier")
    config = classifier_config(folder / "config.py", make_folders(folder / "data"))
    return config, save_initial(config, folder / "weights.pth", classes=CLASSES)


@pytest.fixture(scope="session")
def detector_files(tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a RetinaNet that finds ten objects everywhere."""
    folder = tmp_path_factory.mktemp("detector")
    config = detector_config(folder / "config.py", make_coco(folder / "data"))
    with config.open("a") as file:
        file.write('\nmodel["test_cfg"]["score_thr"] = 0.0\n')
    return config, save_initial(config, folder / "weights.pth", classes=CLASSES)


@pytest.fixture(scope="session")
def classifier(classifier_files: tuple[Path, Path]) -> LoadedModel:
    return load_model(*classifier_files)


@pytest.fixture(scope="session")
def detector(detector_files: tuple[Path, Path]) -> LoadedModel:
    return load_model(*detector_files)


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Smooth pictures, each with a bright square, of three sizes."""
    rng = np.random.default_rng(0)
    pictures = []
    for height, width in ((64, 64), (90, 60), (48, 96)):
        y, x = np.mgrid[:height, :width]
        picture = np.stack([100 + 40 * np.sin(y / 9 + c) * np.cos(x / 7 - c) for c in range(3)], -1)
        picture[10:30, 12:34] = 230
        pictures.append((picture + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8))
    return pictures
