"""Training killed at any moment and resumed, by the commands as whole processes."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from killing import SEEDED, Starter, differences, kill_and_resume
from processes import free_port, run
from recording import batches_of
from tiny_runs import classifier_config, detector_config, make_coco, make_folders

AVERAGED = dict(type="EMAHook", momentum=0.1)

#: By epochs: drop path, random pictures, mixed images, an average, accumulated gradients, both
#: kinds of schedules, evaluations that keep the best.
CLASSIFIER = """
model["backbone"]["drop_path_rate"] = 0.3
model["head"]["loss"] = dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original")
model["train_cfg"] = dict(augments=dict(type="Mixup", alpha=0.8))
train_dataloader["dataset"] = dict(
    data,
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="RandomResizedCrop", scale=32),
        dict(type="RandomFlip", prob=0.5),
        dict(type="ColorJitter", brightness=0.4, contrast=0.4),
        dict(type="PackInputs"),
    ],
)
custom_hooks = [dict(type="EMAHook", momentum=0.05)]
optim_wrapper["accumulative_counts"] = 2
optim_wrapper["clip_grad"] = dict(max_norm=1.0)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", T_max={epochs}, by_epoch=True, convert_to_iter_based=True),
    dict(type="ReduceOnPlateauParamScheduler", param_name="lr", monitor="accuracy/top1",
         rule="greater", patience=1, factor=0.9),
]
train_cfg = dict(by_epoch=True, max_epochs={epochs}, val_interval=3)
default_hooks["checkpoint"] = dict(
    type="CheckpointHook", interval=1, max_keep_ckpts=2, save_best="accuracy/top1"
)
"""

#: By iterations: Mask R-CNN, which draws the proposals it learns from.
DETECTOR = """
roi = lambda size: dict(
    type="SingleRoIExtractor",
    roi_layer=dict(type="RoIAlign", output_size=size, sampling_ratio=2),
    out_channels=32,
    featmap_strides=[16],
)
assigner = dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.3)
sampler = dict(type="RandomSampler", num=16, pos_fraction=0.5)
model = dict(
    type="MaskRCNN",
    data_preprocessor=dict(model["data_preprocessor"], pad_mask=True),
    backbone=dict(model["backbone"], drop_path_rate=0.2),
    rpn_head=dict(
        type="RPNHead",
        in_channels=32,
        feat_channels=32,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[1.5], ratios=[0.5, 1.0, 2.0], strides=[16]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True),
        loss_bbox=dict(type="L1Loss"),
    ),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=roi(3),
        bbox_head=dict(
            type="Shared2FCBBoxHead",
            in_channels=32,
            fc_out_channels=32,
            roi_feat_size=3,
            num_classes=2,
            bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
            loss_cls=dict(type="CrossEntropyLoss"),
            loss_bbox=dict(type="L1Loss"),
        ),
        mask_roi_extractor=roi(6),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=1,
            in_channels=32,
            conv_out_channels=16,
            num_classes=2,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True),
        ),
    ),
    train_cfg=dict(
        rpn=dict(assigner=assigner, sampler=dict(sampler, add_gt_as_proposals=False),
                 allowed_border=-1, pos_weight=-1),
        rpn_proposal=dict(nms_pre=50, max_per_img=20, nms=dict(type="nms", iou_threshold=0.7)),
        rcnn=dict(assigner=assigner, sampler=dict(sampler, add_gt_as_proposals=True),
                  mask_size=12, pos_weight=-1),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=20, nms=dict(type="nms", iou_threshold=0.7)),
        rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10,
                  mask_thr_binary=0.5),
    ),
)
del roi, assigner, sampler
train_dataloader["sampler"] = dict(type="InfiniteSampler")
train_dataloader["dataset"]["pipeline"] = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=[(48, 48), (80, 80)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs", meta_keys=meta_keys),
]
custom_hooks = [dict(type="EMAHook", momentum=0.05)]
param_scheduler = [dict(type="PolyLR", eta_min=0.0, by_epoch=False, begin=0, end={iterations})]
train_cfg = dict(by_epoch=False, max_iters={iterations}, val_interval=40)
default_hooks["checkpoint"] = dict(
    type="CheckpointHook", interval=7, by_epoch=False, max_keep_ckpts=3, save_best="coco/bbox_mAP"
)
"""


def mmdet_config(folder: Path, *, iterations: int = 20) -> Path:
    """Writes the config of a Mask R-CNN trained by iterations."""
    config = detector_config(folder / "detector.py", make_coco(folder / "coco", images=6))
    config.write_text(config.read_text() + DETECTOR.replace("{iterations}", str(iterations)))
    return config


def mmpretrain_config(folder: Path, *, epochs: int = 4) -> Path:
    """Writes the config of a classifier trained by epochs of five batches."""
    config = classifier_config(
        folder / "classifier.py", make_folders(folder / "folders", images=9), dim=32
    )
    config.write_text(config.read_text() + CLASSIFIER.replace("{epochs}", str(epochs)))
    return config


CASES = {
    "mmpretrain": (mmpretrain_config, ["--amp", "bfloat16", "--checkpoint-interval", "3"]),
    "mmdet": (mmdet_config, []),
}


@pytest.fixture(scope="module", params=CASES)
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def starter(tmp_path_factory) -> Starter:
    return Starter(tmp_path_factory.mktemp("kills"))


@pytest.mark.parametrize(
    ("kills", "commands", "length"),
    [
        pytest.param(3, 0, dict(epochs=12, iterations=50), id="few"),
        pytest.param(24, 2, dict(epochs=80, iterations=500), id="many", marks=pytest.mark.full),
    ],
)
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_bits(
    library, starter, tmp_path, record_outcome, kills, commands, length
):
    write, arguments = CASES[library]
    name = "epochs" if library == "mmpretrain" else "iterations"
    config = write(tmp_path, **{name: length[name]})
    whole, work = tmp_path / "whole", tmp_path / "work"
    starter.train([str(config), "--work-dir", str(whole), *arguments, *SEEDED])
    result = kill_and_resume(
        starter,
        config,
        work,
        kills=kills,
        commands=commands,
        seed=0,
        arguments=arguments,
        workers=(0, 2, 1),
    )
    assert differences(whole, work) == []
    assert len(result.moments) == kills
    assert result.within_writes >= kills // 6
    assert result.orphans == 0
    assert not list(work.glob(".*"))
    record_outcome("kill_resume", library, {**asdict(result), "kills": kills, name: length[name]})


def test_two_deterministic_runs_are_equal_to_the_last_bit(library, starter, tmp_path):
    """Of a config without a seed, which would give others each time."""
    write, arguments = CASES[library]
    config = write(tmp_path, **({"epochs": 2} if library == "mmpretrain" else {"iterations": 8}))
    runs = {"one": ["--deterministic"], "other": ["--deterministic"], "free": []}
    for name, options in runs.items():
        starter.train([str(config), "--work-dir", str(tmp_path / name), *arguments, *options])
    assert differences(tmp_path / "one", tmp_path / "other") == []
    assert any("state_dict" in part for part in differences(tmp_path / "one", tmp_path / "free"))
    said = starter.output.read_text()
    assert "--deterministic: the config sets no randomness.seed, 0 is taken" in said


@pytest.mark.parametrize(
    ("processes", "arguments", "options"),
    [
        pytest.param(1, ["--amp", "bfloat16"], [], id="bfloat16"),
        pytest.param(
            2,
            [],
            ["train_dataloader.sampler.type=RepeatAugSampler", "train_dataloader.batch_size=2"],
            id="two processes",
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_killed_training_goes_on_with_the_batches_left(
    tmp_path, root, processes, arguments, options
):
    """Three batches an epoch, updates after two, saved after four, killed after six."""
    data = make_folders(tmp_path / "data", images=5)
    env = {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(root / "tests"),
    }

    def train(work: str, *more: str, hooks: tuple = ()) -> tuple[int, str, str]:
        config = classifier_config(tmp_path / f"{work}.py", data, dim=16)
        hooks = [dict(type="RecordImagesHook", file=f"{work}_seen"), AVERAGED, *hooks]
        with config.open("a") as file:
            print('custom_imports = dict(imports=["halvit_mm", "recording"])', file=file)
            print(f"custom_hooks = {hooks}", file=file)
            print("val_cfg = val_dataloader = val_evaluator = None", file=file)
            print("randomness = dict(seed=3)", file=file)
            print("train_cfg = dict(by_epoch=True, max_epochs=3)", file=file)
            print("optim_wrapper.update(accumulative_counts=2)", file=file)
        start = [sys.executable, root / "tools/train.py", config]
        if processes > 1:
            start = ["bash", root / "tools/dist_train.sh", config, str(processes)]
        command = [*start, "--work-dir", work, *arguments, *more]
        if options:
            command += ["--cfg-options", *options]
        return run(command, tmp_path, PORT=free_port(), **env)

    status, _, errors = train("whole")
    assert status == 0, errors
    kill = dict(type="EndAfterHook", iterations=6, kill=True)
    status, output, errors = train("work", "--checkpoint-interval", "3", hooks=(kill,))
    assert status != 0
    assert "checkpoints every 4 iterations instead of 3" in output
    assert (tmp_path / "work/last_checkpoint").read_text().endswith("mid_epoch.pth"), errors
    seen = [batches_of(tmp_path / "work_seen", rank) for rank in range(processes)]
    for rank in range(processes):
        (tmp_path / f"work_seen.{rank}").unlink()
    status, output, errors = train("work", "--resume")
    assert status == 0, errors
    assert "resumed within an epoch: 1 of its 3 batches are done" in output

    for rank in range(processes):
        whole = batches_of(tmp_path / "whole_seen", rank)
        assert len(whole) == 9
        assert seen[rank][:4] + batches_of(tmp_path / "work_seen", rank) == whole
    one, other = (
        torch.load(tmp_path / work / "epoch_3.pth", weights_only=False)
        for work in ("whole", "work")
    )
    for part in ("state_dict", "ema_state_dict"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    assert one["meta"]["iter"] == other["meta"]["iter"] == 9
