"""Small models with weights, as a training leaves them.

Their configs have different names: runs of one name that start within a second share mmengine's
default scope.
"""

from pathlib import Path

import pytest
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, detector_config, make_coco, make_folders


@pytest.fixture(scope="session")
def detector_files(tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a RetinaNet that finds ten objects everywhere."""
    folder = tmp_path_factory.mktemp("detector")
    config = detector_config(folder / "detector.py", make_coco(folder / "data"))
    with config.open("a") as file:
        file.write('\nmodel["test_cfg"]["score_thr"] = 0.0\n')
    return config, save_initial(config, folder / "weights.pth", classes=CLASSES)


@pytest.fixture(scope="session")
def classifier_files(tmp_path_factory) -> tuple[Path, Path]:
    """Config and checkpoint of a classifier of images of 32 pixels."""
    folder = tmp_path_factory.mktemp("classifier")
    config = classifier_config(folder / "classifier.py", make_folders(folder / "data"))
    return config, save_initial(config, folder / "weights.pth", classes=CLASSES)
