"""Distillation by the commands, as whole processes."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from processes import free_port, run
from teachers import SWIN, make_teacher
from tiny_runs import classifier_config, make_folders

from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.preflight import preflight
from halvit_mm.errors import UserError

CPU = {"CUDA_VISIBLE_DEVICES": ""}
MODEL = """
model = dict(
    _delete_=True,
    type="DistilledClassifier",
    backbone=dict(
        type="MiniSwin",
        arch=dict(dim=8, depths=(2, 4), num_heads=(2, 2)),
        share=2,
        window_size=4,
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes={classes}, in_channels=16, topk=(1,)),
    teacher={teacher},
    distillation=dict(
        prediction=dict(),
        attention=dict(layers=[(1, 1), (5, 5)]),
        hidden=dict(layers=[(1, 1), (5, 5)]),
    ),
)
custom_imports = dict(imports=["halvit_mm.distillation"])
"""
REAL = """
_base_ = [
    "{configs}/_base_/models/small_image_classifier.py",
    "{configs}/_base_/datasets/cifar10.py",
    "{configs}/_base_/schedules/adamw_small.py",
    "{configs}/_base_/classification_runtime.py",
]
{model}
model.update(train_cfg=dict(augments=dict(type="Mixup", alpha=0.8)))
max_epochs = 2
train_cfg = dict(max_epochs=max_epochs)
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=64, **loader)
val_dataloader = test_dataloader = dict(loader)
param_scheduler = None
custom_hooks = [dict(type="EMAHook", momentum=0.1)]
default_hooks = dict(logger=dict(interval=1))
"""


def weights_of(checkpoint: Path, key: str = "state_dict") -> dict[str, torch.Tensor]:
    weights = torch.load(checkpoint, weights_only=False)[key]
    return {name.removeprefix("module."): value for name, value in weights.items()}


def test_train_and_test_on_real_images(tmp_path, root, test_data):
    """CIFAR-10 in bfloat16 with mixup and a moving average; then tested without the teacher."""
    teacher = make_teacher(tmp_path / "teacher", SWIN, classes=10)
    config = tmp_path / "distilled.py"
    model = MODEL.format(classes=10, teacher=teacher)
    config.write_text(REAL.format(configs=root / "configs", model=model))
    env = {**CPU, "HALVIT_CIFAR10_ROOT": str(test_data / "tiny")}
    train = [sys.executable, root / "tools/train.py", config, "--work-dir", "work"]
    status, output, errors = run([*train, "--amp", "bfloat16"], tmp_path, **env)
    assert status == 0, errors
    assert f"Teacher {teacher['config']} with {teacher['checkpoint']}: all weights" in output
    lines = re.findall(r"Epoch\(train\) .* loss: .*", output)
    assert len(lines) == 10  # 300 images
    for line in lines:
        parts = {name: float(value) for name, value in re.findall(r"(loss\w*): (\S+)", line)}
        assert parts.keys() == {"loss", "loss_prediction", "loss_attention", "loss_hidden"}
        total = parts.pop("loss")
        assert total == pytest.approx(sum(parts.values()), abs=3e-4)

    own = weights_of(tmp_path / "work/epoch_2.pth", "ema_state_dict")
    average = weights_of(tmp_path / "work/epoch_2.pth")
    assert own.keys() - {"steps"} == average.keys()
    assert {name.split(".")[0] for name in average} == {"backbone", "head"}
    assert any(not torch.equal(own[name], average[name]) for name in average)

    shutil.rmtree(tmp_path / "teacher")
    command = [sys.executable, root / "tools/test.py", config, "work/epoch_2.pth"]
    status, output, errors = run([*command, "--json", "metrics.json"], tmp_path, **env)
    assert status == 0, errors
    assert 0 <= json.loads((tmp_path / "metrics.json").read_text())["accuracy/top1"] <= 100

    status, output, errors = run([*train, "--resume"], tmp_path, **env)
    assert status == 2
    assert errors.startswith("error: model.teacher.c")
    assert "there is no such" in errors


def test_two_processes_take_the_steps_of_one(tmp_path, root):
    """Four images a step, on one process or on two, which average their gradients."""
    classifier_config(tmp_path / "tiny.py", make_folders(tmp_path / "data"))
    teacher = make_teacher(tmp_path / "teacher", SWIN, classes=2)
    config = tmp_path / "distilled.py"
    config.write_text(
        '_base_ = "tiny.py"\n'
        + MODEL.format(classes=2, teacher=teacher)
        + "model.update(label_weight=0.5)\n"
        + "train_dataloader = dict(sampler=dict(shuffle=False))\n"
        + "train_cfg = dict(max_epochs=2, val_interval=10)\n"
        + 'optim_wrapper = dict(_delete_=True, optimizer=dict(type="SGD", lr=0.05))\n'
        + "default_hooks = dict(checkpoint=dict(interval=1))\n"
        + "randomness = dict(seed=0)\n"
    )
    options = ["--cfg-options", "train_dataloader.batch_size=2"]
    one = [sys.executable, root / "tools/train.py", config, "--work-dir", "one"]
    two = ["bash", root / "tools/dist_train.sh", config, "2", "--work-dir", "two", *options]
    for command in (one, two):
        status, _, errors = run(command, tmp_path, PORT=free_port(), **CPU)
        assert status == 0, errors
    first, alone, together = (
        weights_of(tmp_path / name) for name in ("one/epoch_1.pth", "one/epoch_2.pth",
                                                 "two/epoch_2.pth")
    )  # fmt: skip
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert max((alone[name] - first[name]).abs().max() for name in first) > 1e-3


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "checkpoint",
            "model.teacher.checkpoint=gone: there is no such checkpoint; check the path",
        ),
        ("config", "model.teacher.config=gone: there is no such config"),
    ],
)
def test_preflight_looks_for_the_teacher(tmp_path, option, message):
    """When training, not when testing."""
    classifier_config(tmp_path / "tiny.py", make_folders(tmp_path / "data"))
    teacher = dict(make_teacher(tmp_path / "teacher", SWIN, classes=2), **{option: "gone"})
    config = tmp_path / "distilled.py"
    config.write_text('_base_ = "tiny.py"\n' + MODEL.format(classes=2, teacher=teacher))
    cfg = load_config(config, {"work_dir": str(tmp_path / "work")})
    with pytest.raises(UserError) as error:
        preflight(cfg, mode="train")
    assert str(error.value) == message
    preflight(cfg, mode="test")


def test_layers_that_do_not_fit_are_said_before_training(tmp_path, root):
    classifier_config(tmp_path / "tiny.py", make_folders(tmp_path / "data"))
    teacher = make_teacher(tmp_path / "teacher", SWIN, classes=2)
    config = tmp_path / "distilled.py"
    config.write_text('_base_ = "tiny.py"\n' + MODEL.format(classes=2, teacher=teacher))
    option = "model.distillation.hidden.layers=[(1, 5)]"
    command = [sys.executable, root / "tools/train.py", config, "--cfg-options", option]
    status, output, errors = run(command, tmp_path, **CPU)
    assert status == 2, errors
    assert errors.startswith(
        "error: model.distillation.hidden: layer 1 of the student and layer 5 of the teacher have "
        "other tokens, 1 × 64 × 8 and 1 × 16 × 32"
    )
    assert errors.count("\n") == 1
    assert "Epoch(train)" not in output
