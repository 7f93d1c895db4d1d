"""Small classifiers on each backbone, with weights that are random but not at their start."""

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

SIDE = 64
_HALVIT = dict(
    type="HaLViT",
    arch=dict(dim=64, depth=2, num_heads=4),
    img_size=SIDE,
    with_cls_token=False,
    out_type="avg_featmap",
)
_MINI_DEIT = dict(type="MiniDeiT", arch=dict(dim=64, depth=4, num_heads=4), img_size=SIDE)
_MINI_SWIN = dict(
    type="MiniSwin",
    arch=dict(dim=32, depths=(2, 2), num_heads=(2, 4)),
    share=(2, 2),
    window_size=4,
    out_indices=(1,),
)
_HALF_RESNET = dict(type="HalfResNet", depth=50, base_channels=16, out_indices=(3,))
_HALF_RESNEXT = dict(
    type="HalfResNeXt", depth=50, groups=4, base_width=8, base_channels=16, out_indices=(3,)
)

#: Backbone and the width of its last output; whether it gives a map.
BACKBONES: dict[str, tuple[dict, int, bool]] = {
    "halvit": (_HALVIT, 64, False),
    "halvit with class token": (
        dict(_HALVIT, with_cls_token=True, out_type="cls_token"),
        64,
        False,
    ),
    "halvit with windows": (
        dict(_HALVIT, window_size=3, global_blocks=(1,), rel_pos=True, out_type="featmap"),
        64,
        True,
    ),
    "halvit with corrections": (dict(_HALVIT, second_scale=True, second_rank=2), 64, False),
    "mini_deit": (dict(_MINI_DEIT, share=2), 64, False),
    "mini_deit, tied": (dict(_MINI_DEIT, share=2, tied=True), 64, False),
    "mini_swin": (_MINI_SWIN, 64, True),
    "mini_swin, tied": (dict(_MINI_SWIN, tied=True), 64, True),
    "half_resnet": (_HALF_RESNET, 512, True),
    "half_resnext": (_HALF_RESNEXT, 512, True),
}

#: Those that have a form of their own in graphs; the others take minutes more and come with --full.
QUICK = ("halvit", "halvit with windows", "mini_deit", "mini_swin", "half_resnet", "half_resnext")
CASES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in BACKBONES
]


def small_classifier(name: str, *, dense: bool = False, **options: object) -> nn.Module:
    """An ``ImageClassifier`` of ten classes, in evaluation mode."""
    import halvit_mm.backbones

    backbone, width, is_map = BACKBONES[name]
    if dense:
        twin = getattr(halvit_mm.backbones, backbone["type"]).dense_twin
        backbone = {k: v for k, v in backbone.items() if not k.startswith("second")} | twin
    cfg = dict(
        type="ImageClassifier",
        data_preprocessor=dict(
            type="ClsDataPreprocessor", mean=[120.0, 110, 100], std=[60.0, 58, 56], to_rgb=True
        ),
        backbone=backbone | options,
        neck=dict(type="GlobalAveragePooling") if is_map else None,
        head=dict(type="LinearClsHead", num_classes=10, in_channels=width),
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(cfg).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if buffer_name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model
