"""The tool's soaks, shortened to seconds: real commands, real models, real requests."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import run
from small_models import save_initial
from tiny_runs import CLASSES, classifier_config, make_folders

from halvit_mm.endurance.predicting import repeat
from halvit_mm.endurance.training import soak_training
from halvit_mm.errors import UserError

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny classifier's config and weights."""
    folder = tmp_path_factory.mktemp("soaked")
    config = classifier_config(folder / "tiny.py", make_folders(folder / "data"), dim=16)
    return config, save_initial(config, folder / "tiny.pth", classes=CLASSES)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Forty pictures, each of its own."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def soak(root: Path, folder: Path, *arguments: str | Path) -> dict:
    """Runs the tool and returns what it writes."""
    out = folder / "out.json"
    command = [sys.executable, root / "tools/soak.py", *arguments, "--out", out]
    # As users have it: the suite's own settings keep freed memory.
    settings = {name: "" for name in os.environ if name.startswith("MALLOC_")}
    status, output, errors = run([*command, "--work-dir", folder / "work"], folder, **settings)
    assert status == 0, errors
    assert "anonymous_mib" in output
    return json.loads(out.read_text())


def test_hundreds_of_predictions_leak_nothing(root, tmp_path, model, pictures):
    options = ["--images", "300", "--warm-up", "50", "--interval", "0.2"]
    found = soak(root, tmp_path, "predict", *model, pictures, *options)
    assert found["predictions"] == 300
    assert found["trends"]["anonymous_mib"]["slope"] < 10  # MiB for 1,000 predictions
    assert found["trends"]["descriptors"]["slope"] < 5
    assert max(found["samples"]["temporary_files"]) == 0


def test_dozens_of_pictures_on_the_page_leak_nothing(root, tmp_path, model, pictures):
    pytest.importorskip("gradio")
    found = soak(root, tmp_path, "page", *model, pictures, "--images", "120", "--warm-up", "0")
    assert found["predictions"] == 120
    samples = found["samples"]
    assert max(samples["temporary_files"]) >= 40  # what was sent is there
    late = [
        held
        for held, done in zip(samples["anonymous_mib"], samples["done"], strict=True)
        if done >= 80
    ]
    assert max(late) - min(late) < 20  # MiB
    assert max(samples["descriptors"]) < 100
    assert not list((tmp_path / "work/tmp").iterdir())  # nothing is left behind


def test_a_training_goes_on_until_it_is_stopped(tmp_path, model):
    found = soak_training(
        model[0],
        tmp_path,
        minutes=0.15,
        interval=0.5,
        warm_up=0.05,
        cfg_options={"default_hooks.logger.interval": 1},
    )
    assert found["iterations"] > 4  # two an epoch, however busy the machine is
    assert found["evaluations"] > 1
    assert found["trends"]["anonymous_mib"]["samples"] > 5
    assert len(list(tmp_path.glob("epoch_*.pth"))) in (2, 3)  # and the one just being written
    assert "interrupted" in (tmp_path / "output.txt").read_text()


def test_pictures_take_turns(tmp_path, pictures):
    (tmp_path / "many").mkdir()
    repeat(pictures, tmp_path / "many", 100)
    names = sorted((tmp_path / "many").iterdir())
    assert len(names) == 100
    assert len({name.resolve() for name in names}) == 40


def test_a_folder_without_pictures_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no image"):
        repeat(tmp_path, tmp_path, 1)
