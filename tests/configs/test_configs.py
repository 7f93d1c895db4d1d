"""Every detection config of the repository builds, trains a step and predicts."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).resolve().parents[2]
#: Folders of classification configs, which have tests of their own.
CLASSIFICATION = {"cifar10", "halving", "imagenet", "tinyimagenet"}
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.py")
    if not {"_base_", *CLASSIFICATION} & set(path.parts)
)
HALVIT_PARAMS = {
    "configs/mask_rcnn_halvit_1x_coco.py": 11_048_064,
    "configs/retinanet_halvit_1x_coco.py": 11_048_064,
    "configs/mask_rcnn_halvit_medium_1x_coco.py": 43_329_792,
}
RESNET_PARAMS = {
    f"configs/{detector}_{backbone}_{schedule}_coco.py": params
    for detector in ("mask_rcnn", "retinanet")
    for backbone, params in {"half_resnet50": 13_466_176, "half_resnext101": 23_827_776}.items()
    for schedule in ("1x", "3x")
}
#: Mini-DeiT-S and Mini-Swin-T; RetinaNet's Mini-Swin has no norm of the finest map.
MINIVIT_PARAMS = {
    f"configs/{detector}_{backbone}_{schedule}_coco.py": params
    for detector, finest in {"mask_rcnn": 192, "retinanet": 0}.items()
    for backbone, params in {"mini_deit": 11_065_824, "mini_swin": 11_233_917 + finest}.items()
    for schedule in ("1x", "3x")
}
MODEL_PARAMS = HALVIT_PARAMS | RESNET_PARAMS | MINIVIT_PARAMS


def test_contract_names_exist():
    assert set(MODEL_PARAMS) <= set(CONFIGS)


# The longer schedules have the same models, and unshared twins are trained in the small ones.
REPEATED = re.compile("_3x_|dense_(deit|swin)_nuclei")


# Of full size; what they have that others have not shows in their small versions.
LARGE = re.compile("nuclei/(?!.*_small_)")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.full] if LARGE.search(path) else [])
        for path in CONFIGS
        if not REPEATED.search(path)
    ],
)
def test_detector_trains_and_predicts(path):
    cfg = Config.fromfile(ROOT / path)
    assert cfg.default_scope == "mmdet"
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
        batch = _batch(last_class=_num_classes(cfg.model) - 1)
        data = model.data_preprocessor(batch, training=True)
        losses, _ = model.parse_losses(model(**data, mode="loss"))
        losses.backward()
        frozen = [n for n, p in model.backbone.named_parameters() if not p.requires_grad]
        without = [n for n, p in model.backbone.named_parameters() if p.grad is None]
        assert losses.isfinite()
        assert without == frozen
        model.eval()
        with torch.no_grad():
            data = model.data_preprocessor(batch, training=False)
            (result,) = model(**data, mode="predict")
        assert result.pred_instances.bboxes.shape[1] == 4


@pytest.mark.parametrize("path", sorted(MODEL_PARAMS))
def test_backbone_counts(path):
    """The detectors' backbones are the papers', HaLViT's less the class token and its position."""
    cfg = Config.fromfile(ROOT / path)
    with torch.device("meta"):
        backbone = MODELS.build(cfg.model.backbone)
    assert sum(p.numel() for p in backbone.parameters()) == MODEL_PARAMS[path]


@pytest.mark.parametrize("path", sorted(HALVIT_PARAMS))
def test_halvit_recipe(path):
    """What the comments say: 12 epochs, AdamW 1e-4 for 16 images, classes of COCO."""
    cfg = Config.fromfile(ROOT / path)
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.optim_wrapper.optimizer.type == "AdamW"
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert _num_classes(cfg.model) == 80
    assert cfg.model.backbone.init_cfg.type == "PretrainedBackbone"


@pytest.mark.parametrize("path", sorted(RESNET_PARAMS))
def test_resnet_recipe(path):
    """mmdet's recipe for ResNets: SGD, 12 or 36 epochs, what ImageNet taught kept fixed."""
    cfg = Config.fromfile(ROOT / path)
    epochs = 36 if "3x" in path else 12
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler[-1].end == epochs
    assert cfg.optim_wrapper.optimizer.type == "SGD"
    assert cfg.optim_wrapper.optimizer.lr == (0.01 if "retinanet" in path else 0.02)
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert _num_classes(cfg.model) == 80
    backbone = cfg.model.backbone
    assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)
    assert backbone.init_cfg.type == "PretrainedBackbone"
    resizes = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert ("RandomResize" in resizes) == ("3x" in path)


@pytest.mark.parametrize("path", sorted(MINIVIT_PARAMS))
def test_minivit_recipe(path):
    """HaLViT's for Mini-DeiT, that of mmdet's Swin for Mini-Swin; 12 epochs, or 36 multi-scale."""
    cfg = Config.fromfile(ROOT / path)
    epochs, milestones = (36, [27, 33]) if "3x" in path else (12, [8, 11])
    assert cfg.train_cfg.max_epochs == epochs
    warm_up, steps = cfg.param_scheduler
    assert (steps.end, steps.milestones) == (epochs, milestones)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 1e-4, 0.05)
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert _num_classes(cfg.model) == 80
    resizes = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert ("RandomResize" in resizes) == ("3x" in path)
    backbone = cfg.model.backbone
    assert backbone.init_cfg == dict(type="PretrainedBackbone", checkpoint=None)
    if "deit" in path:
        assert (warm_up.end, cfg.optim_wrapper.clip_grad) == (500, dict(max_norm=1.0))
        assert cfg.optim_wrapper.constructor == "LayerDecayOptimWrapperConstructor"
        assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.8
        assert (backbone.arch, backbone.window_size) == ("small", 14)
        assert backbone.global_blocks == (2, 5, 8, 11)
        assert cfg.model.neck.type == "SimpleFeaturePyramid"
    else:
        assert (warm_up.end, cfg.optim_wrapper.get("clip_grad")) == (1000, None)
        assert "constructor" not in cfg.optim_wrapper
        assert (backbone.arch, backbone.drop_path_rate) == ("tiny", 0.2)
        assert cfg.model.neck.type == "FPN"


@pytest.mark.parametrize(
    ("path", "strides"),
    [
        ("configs/mask_rcnn_mini_deit_1x_coco.py", [4, 8, 16, 32, 64]),
        ("configs/mask_rcnn_mini_swin_1x_coco.py", [4, 8, 16, 32, 64]),
        ("configs/retinanet_mini_deit_1x_coco.py", [8, 16, 32, 64, 128]),
        ("configs/retinanet_mini_swin_1x_coco.py", [8, 16, 32, 64, 128]),
        ("configs/nuclei/mask_rcnn_mini_swin_nuclei.py", [4, 8, 16, 32, 64]),
    ],
)
def test_pyramids_of_minivit_fit_the_anchors(path, strides):
    cfg = Config.fromfile(ROOT / path)
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(cfg.model)
    maps = detector.neck(detector.backbone(torch.empty(1, 3, 256, 384, device="meta")))
    sides = [(-(-256 // stride), -(-384 // stride)) for stride in strides]
    assert [tuple(m.shape[1:]) for m in maps] == [(256, *side) for side in sides]
    anchors = cfg.model.get("rpn_head", cfg.model.get("bbox_head")).anchor_generator.strides
    assert anchors == strides


@pytest.mark.parametrize("path", sorted(MINIVIT_PARAMS))
def test_weight_decay_of_minivit_in_detectors(path):
    """None on vectors and positions of all kinds."""
    cfg = Config.fromfile(ROOT / path)
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(cfg.model)
    groups = build_optim_wrapper(detector, cfg.optim_wrapper).optimizer.param_groups
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays.keys() == set(names.values())
    for name, parameter in detector.named_parameters():
        position = "pos_embed" in name or "rel_pos" in name
        assert decays[name] == (0.0 if parameter.ndim == 1 or position else 0.05), name


@pytest.mark.parametrize("size", ["", "small_"])
@pytest.mark.parametrize("kind", ["deit", "swin"])
def test_unshared_twins_on_nuclei(kind, size):
    mini, dense = (
        Config.fromfile(ROOT / f"configs/nuclei/mask_rcnn_{share}_{kind}_{size}nuclei.py")
        for share in ("mini", "dense")
    )
    assert dense.model.backbone == mini.model.backbone | dict(share=1, transforms=False)
    dense.model.backbone = mini.model.backbone
    assert dense.to_dict() == mini.to_dict()


@pytest.mark.parametrize("size", ["", "small_"])
def test_controls_on_nuclei(size):
    """The twin differs in the tied stages only; the narrow control has the half model's size."""
    half, dense, narrow = (
        Config.fromfile(ROOT / f"configs/nuclei/mask_rcnn_{kind}_resnet50_{size}nuclei.py")
        for kind in ("half", "dense", "narrow")
    )
    assert dense.model.backbone == half.model.backbone | dict(tied_stages=())
    counts = {}
    for kind, cfg in {"half": half, "dense": dense, "narrow": narrow}.items():
        with torch.device("meta"):
            backbone = MODELS.build(cfg.model.backbone)
        counts[kind] = sum(p.numel() for p in backbone.parameters())
        maps = backbone(torch.empty(1, 3, 64, 64, device="meta"))
        assert [m.shape[1] for m in maps] == cfg.model.neck.in_channels
        cfg.pop("model")
    assert counts["narrow"] == pytest.approx(counts["half"], rel=0.01)
    assert counts["half"] < 0.6 * counts["dense"]
    # One recipe for all three.
    assert half.to_dict() == dense.to_dict() == narrow.to_dict()


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
