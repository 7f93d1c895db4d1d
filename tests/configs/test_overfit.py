"""The 80-class COCO config learns: it fits four real photographs when trained on nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "mask_rcnn_halvit_1x_coco.py"
EPOCHS = 170


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_fits_four_images(test_data, tmp_path):
    data = test_data / "tiny" / "coco8_320"
    annotations = "annotations/instances_train.json"
    options = {
        "train_cfg.max_epochs": EPOCHS,
        "train_cfg.val_interval": EPOCHS,
        "default_hooks.checkpoint.interval": EPOCHS,
        "default_hooks.logger.interval": 10,
        # Two steps an epoch, from scratch: a higher rate for all layers, a short warm-up.
        "optim_wrapper.optimizer.lr": 3e-4,
        "optim_wrapper.paramwise_cfg.layer_decay_rate": 1.0,
        "param_scheduler.0.end": 20,
        "param_scheduler.1.end": EPOCHS,
        "param_scheduler.1.milestones": f"[{EPOCHS * 8 // 10},{EPOCHS * 95 // 100}]",
        # Four images need no thousand proposals.
        "model.train_cfg.rpn_proposal.max_per_img": 200,
        "model.train_cfg.rcnn.sampler.num": 64,
        "train_dataloader.dataset.pipeline.2.scale": "(320,320)",
        "val_dataloader.dataset.pipeline.1.scale": "(320,320)",
        "val_evaluator.ann_file": data / annotations,
    }
    for loader in ("train", "val", "test"):
        options[f"{loader}_dataloader.dataset.data_root"] = data
        options[f"{loader}_dataloader.dataset.ann_file"] = annotations
        options[f"{loader}_dataloader.dataset.data_prefix.img"] = "train/"
    train = [sys.executable, ROOT / "tools" / "train.py", CONFIG, "--work-dir", tmp_path]
    pairs = [f"{key}={value}" for key, value in options.items()]
    subprocess.run([*train, "--cfg-options", *pairs], check=True)
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    last = json.loads(scalars.read_text().splitlines()[-1])
    print({key: value for key, value in last.items() if "mAP" in key})
    assert last["coco/bbox_mAP_50"] >= 0.5
