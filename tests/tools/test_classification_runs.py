"""A classifier from archives of images to its accuracy, by the commands as whole processes."""

import json
import math
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from processes import free_port, run


def test_unpack_train_test_analyse(tmp_path, root, test_data):
    """Real images of CIFAR-10; two processes train on the archives, one tests on folders."""
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
    env = {"CUDA_VISIBLE_DEVICES": "", "HALVIT_CIFAR10_ROOT": str(test_data / "tiny")}
    status, output, errors = run(train, tmp_path, PORT=free_port(), **env)
    assert status == 0, errors
    # 300 images, 64 in each of two processes.
    assert "Epoch(train) [2][3/3]" in output
    assert re.search(r"Epoch\(val\) \[2\]\[1/1\] +accuracy/top1: \d", output)

    env["HALVIT_CIFAR10_ROOT"] = "data/cifar10"
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


def lay_out_imagenet(source: Path, root: Path, layout: str) -> list[int]:
    """The ten images of ``source`` as ImageNet has them; their labels in the order of their names.

    With "lists" there are folders of classes in train/, a flat val/, and a list of each; with
    "folders" a folder for each of the 1000 classes in both, most of them empty.
    """
    entries = [line.rsplit(" ", 1) for line in (source / "val.txt").read_text().splitlines()]
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for split in lists:
        if layout == "folders":
            for label in range(1000):
                (root / split / f"n{label:08}").mkdir(parents=True)
        for entry, label in entries:
            file = source / entry
            name = file.name
            if layout == "folders":
                name = f"n{int(label):08}/{name}"
            elif split == "train":
                name = f"{name.split('_')[0]}/{name}"
            (root / split / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, root / split / name)
            lists[split].append(f"{name} {label}\n")
    if layout == "lists":
        (root / "meta").mkdir()
        for split, lines in lists.items():
            (root / "meta" / f"{split}.txt").write_text("".join(lines))
    return [int(label) for _, label in entries]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("halvit_tiny_imagenet", "lists"),
        pytest.param("half_resnet50_imagenet", "folders", marks=pytest.mark.full),
    ],
)
def test_an_epoch_on_imagenet(tmp_path, root, test_data, name, layout):
    """Ten real images through the unmodified config of 1000 classes and 224 pixels."""
    labels = lay_out_imagenet(test_data / "tiny/imagenet10", tmp_path / "imagenet", layout)
    config = root / "configs/imagenet" / f"{name}.py"
    options = [
        *("train_cfg.max_epochs=1", "default_hooks.logger.interval=1", "randomness.seed=0"),
        *("train_dataloader.batch_size=5", "train_dataloader.num_workers=1"),
        *("val_dataloader.batch_size=5", "val_dataloader.num_workers=0"),
        *("test_dataloader.batch_size=5", "test_dataloader.num_workers=0"),
    ]
    options = ["--work-dir", "work", "--cfg-options", *options]
    env = {"CUDA_VISIBLE_DEVICES": "", "HALVIT_IMAGENET_ROOT": "imagenet"}
    train = [sys.executable, root / "tools/train.py", config, *options]
    status, output, errors = run(train, tmp_path, **env)
    assert status == 0, errors
    losses = [float(loss) for loss in re.findall(r"Epoch\(train\).* loss: (\d+\.\d+)", output)]
    assert len(losses) == 2
    if name.startswith("halvit"):  # a guess among 1000 classes; the other sums over classes
        assert all(loss == pytest.approx(math.log(1000), abs=0.5) for loss in losses)
    assert re.search(r"Epoch\(val\) \[1\]\[2/2\] +accuracy/top1: \d", output)
    weights = torch.load(tmp_path / "work/epoch_1.pth", weights_only=False)["state_dict"]
    assert len(weights["head.fc.bias"]) == 1000

    test = [sys.executable, root / "tools/test.py", config, "work/epoch_1.pth"]
    outputs = ["--json", "metrics.json", "--out", "predictions.pkl"]
    status, output, errors = run([*test, *outputs, *options], tmp_path, **env)
    assert status == 0, errors
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    predictions = pickle.loads((tmp_path / "predictions.pkl").read_bytes())
    assert [int(p["gt_label"]) for p in predictions] == labels
    assert all(p["pred_score"].shape == (1000,) for p in predictions)
    right = [int(p["pred_label"]) == label for p, label in zip(predictions, labels, strict=True)]
    assert metrics["accuracy/top1"] == pytest.approx(10 * sum(right))
