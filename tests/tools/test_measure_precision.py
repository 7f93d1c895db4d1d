"""The command that measures what fewer bits cost, as a whole process."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from processes import run

import halvit_mm  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "measure_precision.py"
CONFIG = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['halvit_mm'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True, num_classes=2),
    backbone=dict(type='HaLViT', arch=dict(dim=64, depth=2, num_heads=4), img_size=32,
                  patch_size=8, with_cls_token=False, out_type='avg_featmap', init_std=0.2),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64,
              loss=dict(type='CrossEntropyLoss'),
              init_cfg=dict(type='Normal', layer='Linear', std=0.5)))
test_dataloader = dict(
    batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='LabelledImages', data_root='data', split='test', test_mode=True,
                 pipeline=[dict(type='PackInputs')]))
test_evaluator = dict(type='Accuracy', topk=(1,))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, a checkpoint of random weights, and twelve images of noise in two classes."""
    folder = tmp_path_factory.mktemp("precision")
    (folder / "config.py").write_text(CONFIG)
    rng = np.random.default_rng(0)
    for label in ("one", "two"):
        (folder / "data/test" / label).mkdir(parents=True)
        for i in range(6):
            colours = rng.integers(0, 256, (4, 4, 3), np.uint8)
            image = Image.fromarray(colours).resize((32, 32))
            image.save(folder / "data/test" / label / f"{i}.png")
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(Config.fromfile(folder / "config.py").model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), folder / "weights.pth")
    return folder


def measure(folder: Path, *options: object) -> tuple[int, str, str]:
    return run([sys.executable, TOOL, "config.py", "weights.pth", *options], folder)


def test_table_and_figures(folder: Path) -> None:
    status, output, errors = measure(folder, "--out", "figures.json")
    assert status == 0, errors
    rows = [line.split("|")[1].strip() for line in output.splitlines() if line.startswith("|")]
    assert rows[2:] == ["PyTorch", "fp32", "fp16", "int8-weights", "int8-dynamic"]
    torch_result, exact, *smaller = json.loads((folder / "figures.json").read_text())["results"]
    assert torch_result["metrics"] == exact["metrics"] and exact["agreement"] == 1
    right = torch_result["metrics"]["accuracy/top1"] * 12 / 100
    assert right == pytest.approx(round(right), abs=1e-3)
    assert all(0.75 <= result["agreement"] <= 1 for result in smaller)
    assert all(result["file_bytes"] < 0.7 * exact["file_bytes"] for result in smaller)
    assert all(result["file_bytes"] < 0.75 * result["twin_bytes"] for result in smaller)


def test_some_images_and_precisions(folder: Path) -> None:
    status, output, errors = measure(folder, "--images", 5, "--precisions", "int8-dynamic")
    assert status == 0, errors
    rows = [line for line in output.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and rows[3].startswith("| int8-dynamic |")
    assert float(rows[2].split("|")[4]) in (0, 20, 40, 60, 80, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "0"), "--images 0: at least one image is needed"),
        (("--cfg-options", "test_evaluator=None"), "has no test_evaluator"),
        (("--cfg-options", "test_dataloader.dataset.data_root=nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, options: tuple, message: str) -> None:
    status, _, errors = measure(folder, *options)
    assert status == 2 and message in errors and "Traceback" not in errors
