"""Every config of the repository builds, trains a step and predicts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.py")
    if "_base_" not in path.parts
)
MODEL_PARAMS = {
    "configs/mask_rcnn_halvit_1x_coco.py": 11_048_064,
    "configs/retinanet_halvit_1x_coco.py": 11_048_064,
    "configs/mask_rcnn_halvit_medium_1x_coco.py": 43_329_792,
}


def test_contract_names_exist():
    assert set(MODEL_PARAMS) <= set(CONFIGS)


@pytest.mark.parametrize("path", CONFIGS)
def test_detector_trains_and_predicts(path):
    cfg = Config.fromfile(ROOT / path)
    assert cfg.default_scope == "mmdet"
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
        batch = _batch(last_class=_num_classes(cfg.model) - 1)
        data = model.data_preprocessor(batch, training=True)
        losses, _ = model.parse_losses(model(**data, mode="loss"))
        losses.backward()
        without = [n for n, p in model.backbone.named_parameters() if p.grad is None]
        assert losses.isfinite()
        assert not without
        model.eval()
        with torch.no_grad():
            data = model.data_preprocessor(batch, training=False)
            (result,) = model(**data, mode="predict")
        assert result.pred_instances.bboxes.shape[1] == 4


@pytest.mark.parametrize("path", sorted(MODEL_PARAMS))
def test_backbone_counts(path):
    """The detectors' backbones are the paper's, less the class token and its position."""
    cfg = Config.fromfile(ROOT / path)
    backbone = MODELS.build(cfg.model.backbone)
    assert sum(p.numel() for p in backbone.parameters()) == MODEL_PARAMS[path]


@pytest.mark.parametrize("path", sorted(MODEL_PARAMS))
def test_recipe(path):
    """What the comments say: 12 epochs, AdamW 1e-4 for 16 images, classes of COCO."""
    cfg = Config.fromfile(ROOT / path)
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.optim_wrapper.optimizer.type == "AdamW"
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert _num_classes(cfg.model) == 80
    assert cfg.model.backbone.init_cfg.type == "PretrainedBackbone"


def _batch(last_class: int) -> dict:
    """One image of 96 × 128 pixels with two objects, as mmdet's pipelines pack it."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    boxes = torch.tensor([[10.0, 20, 60, 70], [50, 30, 110, 90]])
    masks = np.zeros((2, 96, 128), dtype=np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    sample = DetDataSample(
        metainfo=dict(img_shape=(96, 128), ori_shape=(96, 128), scale_factor=(1.0, 1.0), img_id=0)
    )
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, last_class]), masks=BitmapMasks(masks, 96, 128)
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    return dict(inputs=[image], data_samples=[sample])


def _num_classes(model: Config) -> int:
    head = model.roi_head.bbox_head if "roi_head" in model else model.bbox_head
    return head.num_classes
