"""Tiny data sets and configs, for tests that train and test for real in seconds."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("dark", "light")
SIDE = 64


def make_coco(folder: Path, *, images: int = 4) -> Path:
    """Writes ``images`` pictures of a dark and a light square with COCO annotations."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    infos, annotations = [], []
    for i in range(images):
        picture = rng.integers(100, 140, (SIDE, SIDE, 3), dtype=np.uint8)
        infos.append(dict(id=i, file_name=f"{i}.png", width=SIDE, height=SIDE))
        for label, shade in enumerate((20, 230)):
            size = int(rng.integers(16, 28))
            x, y = int(rng.integers(0, 32 - size // 2)) + 16 * label, int(rng.integers(0, 36))
            picture[y : y + size, x : x + size] = shade
            corners = [x, y, x + size, y, x + size, y + size, x, y + size]
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=i,
                    category_id=label + 1,
                    bbox=[x, y, size, size],
                    area=size * size,
                    segmentation=[corners],
                    iscrowd=0,
                )
            )
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=infos, annotations=annotations, categories=categories)
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def make_folders(folder: Path, *, images: int = 4) -> Path:
    """Writes ``images`` pictures of each of two classes, one folder a class."""
    rng = np.random.default_rng(0)
    for shade, name in zip((60, 190), CLASSES, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            picture = rng.integers(shade - 40, shade + 40, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / name / f"{name}_{i}.png")
    return folder


def detector_config(path: Path, data: Path, *, dim: int = 32) -> Path:
    """Writes the config of a one-level RetinaNet on a HaLViT of two blocks."""
    path.write_text(
        _DETECTOR.format(data=str(data), dim=dim, classes=CLASSES, side=SIDE, heads=dim // 16)
    )
    return path


def classifier_config(path: Path, data: Path, *, dim: int = 32) -> Path:
    """Writes the config of a classifier on a HaLViT of two blocks."""
    path.write_text(_CLASSIFIER.format(data=str(data), dim=dim, heads=dim // 16))
    return path


_DETECTOR = """
default_scope = "mmdet"
custom_imports = dict(imports=["halvit_mm"])
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[128.0] * 3,
        std=[64.0] * 3,
        pad_size_divisor=16,
    ),
    backbone=dict(
        type="HaLViT",
        arch=dict(dim={dim}, depth=2, num_heads={heads}),
        img_size={side},
        with_cls_token=False,
        out_type="featmap",
        init_cfg=dict(type="PretrainedBackbone", checkpoint=None),
    ),
    neck=None,
    bbox_head=dict(
        type="RetinaHead",
        num_classes=2,
        in_channels={dim},
        stacked_convs=1,
        feat_channels=32,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[1.5], ratios=[1.0], strides=[16]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True),
        loss_bbox=dict(type="L1Loss"),
    ),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0
        ),
        sampler=dict(type="PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=100, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10
    ),
)
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=meta_keys),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=({side}, {side}), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=meta_keys),
]
data = dict(
    type="CocoDataset",
    data_root="{data}",
    ann_file="annotations.json",
    data_prefix=dict(img="images/"),
    metainfo=dict(classes={classes}),
    serialize_data=False,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(pipeline=train_pipeline, **data),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(pipeline=test_pipeline, test_mode=True, **data),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoMetric", ann_file="{data}/annotations.json", metric="bbox")
test_evaluator = val_evaluator
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="LayerDecayOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.8, flat_decay_mult=0.0),
)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
    visualization=dict(type="DetVisualizationHook"),
)
visualizer = dict(type="DetLocalVisualizer")
auto_scale_lr = dict(enable=False, base_batch_size=4)
"""

_CLASSIFIER = """
default_scope = "mmpretrain"
custom_imports = dict(imports=["halvit_mm"])
model = dict(
    type="ImageClassifier",
    backbone=dict(type="HaLViT", arch=dict(dim={dim}, depth=2, num_heads={heads}), img_size=32),
    head=dict(
        type="LinearClsHead",
        num_classes=2,
        in_channels={dim},
        loss=dict(type="CrossEntropyLoss"),
        topk=1,
    ),
)
data_preprocessor = dict(num_classes=2, mean=[128.0] * 3, std=[64.0] * 3)
pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
data = dict(type="CustomDataset", data_root="{data}", pipeline=pipeline, serialize_data=False)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=data,
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=data,
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=10)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    constructor="LayerDecayOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.8, flat_decay_mult=0.0),
)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=50),
    checkpoint=dict(type="CheckpointHook", interval=10),
)
"""
