"""Measuring training steps of two configs side by side, as a real command."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from processes import run

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
_base_ = "{base}"
model = dict(backbone=dict(base_channels={width}), head=dict(in_channels={out}))
train_dataloader = dict(batch_size=8)
"""


@pytest.fixture
def folders(tmp_path) -> Path:
    """A folder of 16 noise images in each of CIFAR-10's classes."""
    classes = Config.fromfile(ROOT / "configs/_base_/datasets/cifar10.py").metainfo.classes
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "0.png")
    return tmp_path


def measure(folder: Path, *options: str) -> tuple[int, str, str]:
    command = [sys.executable, ROOT / "tools/measure_training.py", *options]
    return run(command, folder, HALVIT_CIFAR10_ROOT=str(folder / "data"))


def test_wider_is_slower_and_larger(folders):
    base = ROOT / "configs/cifar10/half_resnet50_cifar10.py"
    for name, width in (("thin", 4), ("wide", 32)):
        text = CONFIG.format(base=base, width=width, out=32 * width)
        (folders / f"{name}.py").write_text(text)
    options = ["--rounds=1", "--steps=2", "--threads=1", "--json=figures.json"]
    status, output, errors = measure(folders, "thin.py", "wide.py", *options)
    assert status == 0, errors
    figures = json.loads((folders / "figures.json").read_text())["results"]
    thin, wide = figures["thin.py"], figures["wide.py"]
    assert len(thin["seconds"]) == len(wide["seconds"]) == 2
    assert min(wide["seconds"]) > 2 * min(thin["seconds"]) > 0
    assert wide["peak_mib"] > 1.5 * thin["peak_mib"] > 0
    rows = [line.split() for line in output.splitlines() if line.endswith(".py")]
    assert [row[-1] for row in rows] == ["thin.py", "wide.py"]
    assert float(rows[0][3]) == 1.0
    assert float(rows[1][3]) > 1.5


def test_missing_data_end_in_one_sentence(tmp_path):
    status, _, errors = measure(tmp_path, str(ROOT / "configs/cifar10/half_resnet50_cifar10.py"))
    assert status == 2
    assert "Traceback" not in errors
    assert str(tmp_path / "data") in errors
