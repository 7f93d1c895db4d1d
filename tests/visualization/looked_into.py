"""Models in memory for tests of looking inside, without files and training."""

import numpy as np
import torch
from mmengine.config import Config

from halvit_mm.inference import LoadedModel, load_model

CLASSES = ("cat", "dog", "bird")


def classifier(backbone: dict, *, channels: int, pipeline: list | None = None) -> LoadedModel:
    """An untrained classifier of three classes whose weights are all random."""
    tokens = backbone["type"] in ("HaLViT", "MiniDeiT")
    neck = None if tokens else dict(type="GlobalAveragePooling")
    head = dict(
        type="LinearClsHead",
        num_classes=3,
        in_channels=channels,
        loss=dict(type="CrossEntropyLoss"),
    )
    model = dict(type="ImageClassifier", backbone=backbone, neck=neck, head=head)
    model["data_preprocessor"] = dict(num_classes=3, mean=[128.0] * 3, std=[64.0] * 3, to_rgb=True)
    return _loaded(model, "mmpretrain", [*(pipeline or []), dict(type="PackInputs")])


def detector(model: dict, *, side: int = 64) -> LoadedModel:
    """An untrained detector whose weights are all random; images are resized to fit ``side``."""
    meta_keys = ("img_path", "ori_shape", "img_shape", "scale_factor")
    pipeline = [
        dict(type="Resize", scale=(side, side), keep_ratio=True),
        dict(type="PackDetInputs", meta_keys=meta_keys),
    ]
    model["data_preprocessor"] = dict(
        type="DetDataPreprocessor", mean=[128.0] * 3, std=[64.0] * 3, pad_size_divisor=32
    )
    return _loaded(model, "mmdet", pipeline)


def _loaded(model: dict, scope: str, pipeline: list) -> LoadedModel:
    pipeline = [dict(type="LoadImageFromFile"), *pipeline]
    dataset = dict(
        type="CustomDataset" if scope == "mmpretrain" else "CocoDataset",
        pipeline=pipeline,
        metainfo=dict(classes=CLASSES),
    )
    cfg = Config(
        dict(
            default_scope=scope,
            custom_imports=dict(imports=["halvit_mm"]),
            model=model,
            test_dataloader=dict(dataset=dataset),
        )
    )
    loaded = load_model(cfg, None, untrained=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in loaded.model.parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (1.5 / fan**0.5)
    return loaded


def photograph(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth colourful picture with a bright spot at a quarter of its height and width."""
    y, x = np.mgrid[:height, :width]
    spot = np.exp(-((y - height / 4) ** 2 + (x - width / 4) ** 2) / (height / 8) ** 2)
    colours = np.stack((60 + 100 * x / width, 60 + 100 * y / height, np.full(y.shape, 80)), axis=2)
    return np.clip(colours + 90 * spot[..., None], 0, 255).astype(np.uint8)
