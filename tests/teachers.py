"""Tiny classifiers of mmpretrain's as teachers, with random weights in real files."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

SIDE = 32

SWIN = dict(
    type="SwinTransformer",
    # 8 × 8 and 4 × 4 patches of 4 pixels, in windows of 4 × 4.
    arch=dict(embed_dims=16, depths=[2, 4], num_heads=[2, 4]),
    img_size=SIDE,
    patch_size=4,
    window_size=4,
    out_indices=(1,),
)
VIT = dict(
    type="VisionTransformer",
    arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=48),
    img_size=SIDE,
    patch_size=8,
)
RESNET = dict(type="ResNet", depth=18, base_channels=4, stem_channels=4)
POOLING = dict(type="GlobalAveragePooling")


def classifier(backbone: dict, *, classes: int = 5, **options) -> dict:
    """The config of a classifier's model on one of the backbones above, or on one like them."""
    kind = backbone["type"]
    widths = dict(SwinTransformer=32, VisionTransformer=16, ResNet=32)
    return dict(
        type="ImageClassifier",
        backbone=backbone,
        neck=None if kind == "VisionTransformer" else POOLING,
        head=dict(type="LinearClsHead", num_classes=classes, in_channels=widths[kind], topk=(1,)),
        **options,
    )


def build(model: dict) -> nn.Module:
    """A classifier with random weights that are all of a size that matters."""
    import mmpretrain.models  # noqa: F401

    with DefaultScope.overwrite_default_scope("mmpretrain"):
        built = MODELS.build(Config(dict(model=model)).model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in built.state_dict().items():
            if not value.is_floating_point():
                continue
            value.copy_(torch.randn(value.shape, generator=generator))
            if name.endswith("running_var"):
                value.abs_().add_(0.5)
            elif value.dim() > 1:
                value.mul_(0.3)
    return built.eval()


def make_teacher(
    folder: Path, backbone: dict = SWIN, *, top: str = "", **options
) -> dict[str, str]:
    """Writes a classifier's config and checkpoint; ``top`` is added to the config.

    Returns:
        What a config says of it as ``model.teacher``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = classifier(backbone, **options)
    (folder / "teacher.py").write_text(f'default_scope = "mmpretrain"\nmodel = {model!r}\n{top}\n')
    torch.save(dict(state_dict=build(model).state_dict()), folder / "teacher.pth")
    return dict(config=str(folder / "teacher.py"), checkpoint=str(folder / "teacher.pth"))
