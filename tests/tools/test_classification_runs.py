"""A classifier from archives of images to its accuracy, by the commands as whole processes."""

import json
import pickle
import re
import sys

from processes import free_port, run


def test_unpack_train_test_analyse(tmp_path, root, test_data):
    """Real images of CIFAR-10; two processes train, one tests."""
    unpack = [sys.executable, root / "tools/unpack_images.py", test_data / "tiny", "data/cifar10"]
    status, output, errors = run(unpack, tmp_path)
    assert (status, output) == (0, "the images (100 test, 300 train) are in data/cifar10\n"), errors

    config = root / "configs/cifar10/small_half_resnet50_cifar10.py"
    options = [
        *("model.backbone.base_channels=8", "model.head.in_channels=256"),
        *("train_cfg.max_epochs=2", "param_scheduler.1.T_max=2", "default_hooks.logger.interval=1"),
        # BatchNorm's statistics are to follow the weights of these few steps.
        *("model.backbone.norm_cfg.type=BN", "model.backbone.norm_cfg.momentum=0.5"),
        *("train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"),
        *("val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False"),
        *("test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"),
    ]
    options = ["--work-dir", "work", "--cfg-options", *options]
    train = ["bash", root / "tools/dist_train.sh", config, "2", *options]
    env = {"CUDA_VISIBLE_DEVICES": "", "HALVIT_CIFAR10_ROOT": "data/cifar10"}
    status, output, errors = run(train, tmp_path, PORT=free_port(), **env)
    assert status == 0, errors
    # 300 images, 64 in each of two processes.
    assert "Epoch(train) [2][3/3]" in output
    assert re.search(r"Epoch\(val\) \[2\]\[1/1\] +accuracy/top1: \d", output)

    test = [sys.executable, root / "tools/test.py", config, "work/epoch_2.pth"]
    outputs = ["--json", "metrics.json", "--out", "predictions.pkl"]
    status, output, errors = run([*test, *outputs, *options], tmp_path, **env)
    assert status == 0, errors
    accuracy = json.loads((tmp_path / "metrics.json").read_text())["accuracy/top1"]
    assert f"accuracy/top1: {accuracy:.4f}" in output
    predictions = pickle.loads((tmp_path / "predictions.pkl").read_bytes())
    assert len(predictions) == 100
    right = [int(p["pred_label"]) == int(p["gt_label"]) for p in predictions]
    assert sum(right) == round(accuracy)

    analyze = [sys.executable, root / "tools/analyze_run.py", "work"]
    status, output, errors = run(analyze, tmp_path)
    assert status == 0, errors
    assert "top-1 (%), last / best" in output
    assert (tmp_path / "work/curves.png").stat().st_size > 10_000
