"""The repository's detectors, small and with random weights that find many objects."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

import halvit_mm  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
CHANNELS = 16
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
PLAIN_VIT = dict(dim=32, depth=2, num_heads=2)
PLAIN_BACKBONE = dict(arch=PLAIN_VIT, img_size=64, window_size=3, global_blocks=(1,))
#: What makes the backbones and necks of `configs/*_1x_coco.py` small.
SMALL = {
    "halvit": dict(backbone=PLAIN_BACKBONE, neck=dict(in_channels=32)),
    "mini_deit": dict(backbone=PLAIN_BACKBONE, neck=dict(in_channels=32)),
    "mini_swin": dict(
        backbone=dict(
            arch=dict(dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 2)), window_size=3, share=2
        ),
        neck=dict(in_channels=[8, 16, 32, 64]),
    ),
    "half_resnet50": dict(
        backbone=dict(base_channels=8, frozen_stages=-1, norm_eval=False),
        neck=dict(in_channels=[32, 64, 128, 256]),
    ),
}
#: The same for the heads; thresholds that leave something, caps that cut something.
HEADS = {
    "retinanet": dict(
        bbox_head=dict(
            num_classes=7, in_channels=CHANNELS, feat_channels=CHANNELS, stacked_convs=1
        ),
        test_cfg=dict(nms_pre=300, score_thr=0.3, max_per_img=80),
    ),
    "mask_rcnn": dict(
        rpn_head=dict(in_channels=CHANNELS, feat_channels=CHANNELS),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=CHANNELS),
            bbox_head=dict(in_channels=CHANNELS, fc_out_channels=32, num_classes=7),
            mask_roi_extractor=dict(out_channels=CHANNELS),
            mask_head=dict(
                num_convs=1, in_channels=CHANNELS, conv_out_channels=CHANNELS, num_classes=7
            ),
        ),
        test_cfg=dict(
            rpn=dict(nms_pre=200, max_per_img=150), rcnn=dict(score_thr=0.3, max_per_img=40)
        ),
    ),
}


@cache
def _config(detector: str, backbone: str) -> Config:
    return Config.fromfile(ROOT / f"configs/{detector}_{backbone}_1x_coco.py")


def small_config(detector: str, backbone: str, **changes) -> Config:
    """A config of the repository made small, with ``changes`` of its model on top."""
    cfg = Config(_config(detector, backbone).to_dict())
    model = {**SMALL[backbone], **HEADS[detector]}
    model["backbone"] = {**model["backbone"], "init_cfg": None}
    model["neck"] = {**model["neck"], "out_channels": CHANNELS}
    if detector == "retinanet" and backbone == "mini_swin":  # which leaves out the finest map
        model["neck"] = {**model["neck"], "in_channels": [16, 32, 64]}
    if "arch" in model["backbone"]:
        model["backbone"] = {
            **model["backbone"],
            "arch": {**model["backbone"]["arch"], "_delete_": True},
        }
    cfg.merge_from_dict(dict(model=model))
    cfg.merge_from_dict(dict(model=changes))
    return cfg


def build(cfg: Config) -> nn.Module:
    """The detector in evaluation mode, with scores and boxes spread wide."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model).eval()
    # As initialised, all scores are nearly the same, and rounding errors would choose among them.
    for name, module in model.named_modules():
        if "head" in name and isinstance(module, LAYERS):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
    with torch.no_grad():
        _calm(model, (as_input(photograph(256, 320)) - 115) / 58)
    return model


def _calm(model: nn.Module, pixels: Tensor) -> None:
    """Keeps the maps of untrained ResNets and feature pyramids from growing."""
    for norm in model.backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train().momentum = 1.0
    model.extract_feat(pixels)
    maps = model.eval().extract_feat(pixels)
    if hasattr(model.neck, "fpn_convs"):
        for parameter in model.neck.fpn_convs.parameters():
            parameter.div_(maps[0].std())
        maps = model.extract_feat(pixels)
    _spread(model, maps)


def _spread(model: nn.Module, maps: tuple[Tensor, ...]) -> None:
    """Scales the dense head's last layers, so that no score is near 1 and boxes differ."""
    if hasattr(model, "rpn_head"):
        head, layers = model.rpn_head, (model.rpn_head.rpn_cls, model.rpn_head.rpn_reg)
    else:
        head, layers = model.bbox_head, (model.bbox_head.retina_cls, model.bbox_head.retina_reg)
    for layer, levels, spread in zip(layers, head(maps), (0.7, 0.4), strict=True):
        values = torch.cat([level.flatten() for level in levels])
        layer.bias.sub_(values.mean() + values.std())
        for parameter in layer.parameters():
            parameter.mul_(spread / values.std())


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something to look at, (height, width, 3) uint8 RGB: coloured rectangles and noise."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 90.0)
    for _ in range(12):
        y, x = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return (image + rng.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)


def as_input(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB → (1, 3, H, W) float32, as ``ExportableDetector`` takes it."""
    return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None].contiguous()


def mmdet_predict(model: nn.Module, image: np.ndarray):
    """What mmdet finds in an RGB image: ``pred_instances``."""
    size = image.shape[:2]
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    with torch.no_grad():
        return model.test_step(dict(inputs=[pixels], data_samples=[sample]))[0].pred_instances
