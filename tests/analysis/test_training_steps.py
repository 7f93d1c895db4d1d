"""Measuring training steps of two configs side by side, as a real command."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from processes import run

from halvit_mm.analysis.synthetic import synthetic_batch
from halvit_mm.analysis.training_steps import StepFigures
from halvit_mm.errors import UserError

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
    options = ["--rounds=3", "--steps=1", "--threads=1", "--gpus=4", "--json=figures.json"]
    status, output, errors = measure(folders, "thin.py", "wide.py", *options)
    assert status == 0, errors
    figures = json.loads((folders / "figures.json").read_text())["results"]
    thin, wide = figures["thin.py"], figures["wide.py"]
    assert len(thin["seconds"]) == len(wide["seconds"]) == 3
    assert min(wide["seconds"]) > 2 * min(thin["seconds"]) > 0
    assert wide["peak_mib"] > 1.5 * thin["peak_mib"] > 0
    rows = [line.split() for line in output.splitlines() if line.endswith(".py")]
    assert [row[-1] for row in rows] == ["thin.py", "wide.py"]
    assert float(rows[0][3]) == 1.0
    assert float(rows[1][3]) > 1.5

    epochs = Config.fromfile(base).train_cfg.max_epochs
    for row, figure in zip(rows, (thin, wide), strict=True):
        throughput = 8 / np.median(figure["seconds"])
        assert figure["images_per_second"] == pytest.approx(throughput)
        assert float(row[4]) == pytest.approx(throughput, abs=0.06)
        assert figure["hours"] == pytest.approx(epochs * 10 / throughput / 3600 / 4)  # 10 images
    assert "hours on 4 of them, if they scale fully" in output


def test_missing_data_end_in_one_sentence(tmp_path):
    status, _, errors = measure(tmp_path, str(ROOT / "configs/cifar10/half_resnet50_cifar10.py"))
    assert status == 2
    assert "Traceback" not in errors
    assert str(tmp_path / "data") in errors


def test_imagenet_is_measured_without_its_images(tmp_path):
    """The whole recipe, with augmentation, mixing and 300 epochs, on a small model."""
    (tmp_path / "small.py").write_text(
        f'''
_base_ = "{ROOT / "configs/imagenet/halvit_tiny_imagenet.py"}"
model = dict(
    backbone=dict(arch=dict(_delete_=True, dim=32, depth=1, num_heads=2)),
    head=dict(in_channels=32),
)
train_dataloader = dict(batch_size=2)
'''
    )
    options = ["--rounds=1", "--steps=1", "--synthetic", "--json=figures.json"]
    status, output, errors = measure(tmp_path, "small.py", "--images=1281167", *options)
    assert status == 0, errors
    (figure,) = json.loads((tmp_path / "figures.json").read_text())["results"].values()
    assert figure["images_per_second"] == pytest.approx(2 / figure["seconds"][0])
    hours = 300 * 1281167 / figure["images_per_second"] / 3600
    assert figure["hours"] == pytest.approx(hours)
    (row,) = (line.split() for line in output.splitlines() if line.endswith("small.py"))
    assert float(row[6]) == pytest.approx(hours, abs=0.06)


@pytest.mark.parametrize(
    ("config", "size", "classes"),
    [("imagenet/halvit_tiny_imagenet.py", 224, 1000), ("cifar10/half_resnet50_cifar10.py", 32, 10)],
)
def test_noise_gets_the_size_of_training(config, size, classes):
    cfg = Config.fromfile(ROOT / "configs" / config)
    cfg.train_dataloader.batch_size = 40
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        batch = synthetic_batch(cfg)
    assert [image.shape for image in batch["inputs"]] == [(3, size, size)] * 40
    assert len({image.numpy().tobytes() for image in batch["inputs"]}) == 40
    labels = [int(sample.gt_label) for sample in batch["data_samples"]]
    assert classes / 3 < max(labels) < classes


def test_noise_is_for_classifiers():
    cfg = Config.fromfile(ROOT / "configs/retinanet_halvit_1x_coco.py")
    with pytest.raises(UserError, match=r"retinanet_halvit_1x_coco.py: synthetic .*--synthetic"):
        synthetic_batch(cfg)


def test_hours_of_a_schedule():
    figures = StepFigures(batch=8, epoch=900, seconds=[9.0, 2.0, 1.0])
    assert figures.images_per_second == 4
    # 16 epochs of 900 images, 4 a second.
    assert figures.schedule_hours(dict(max_epochs=16)) == 1
    assert figures.schedule_hours(dict(max_epochs=16), gpus=2) == 0.5
    assert figures.schedule_hours(dict(max_epochs=16), images=1800) == 2
    assert figures.schedule_hours(dict(max_iters=900), gpus=2) == 0.5
    unknown = StepFigures(batch=8, epoch=None, seconds=[2.0])
    assert unknown.schedule_hours(dict(max_epochs=16)) is None
    assert unknown.schedule_hours(dict(max_epochs=16), images=900) == 1


@pytest.mark.parametrize("option", ["--gpus=0", "--images=0", "--steps=-1"])
def test_numbers_below_one_are_refused(tmp_path, option):
    status, _, errors = measure(tmp_path, "absent.py", option)
    assert status == 2
    assert f"{option.replace('=', ' ')}: give 1 or more" in errors
