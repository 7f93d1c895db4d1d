"""Exportable detectors find what mmdet finds, box by box and in the same order."""

import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from small_detectors import (
    HEADS,
    ROOT,
    SMALL,
    as_input,
    build,
    mmdet_predict,
    photograph,
    small_config,
)
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from halvit_mm.analysis.weightless import build_without_weights
from halvit_mm.deploy.boxes import DeltaDecoder, GroupedNMS
from halvit_mm.deploy.detectors import ExportableDetector
from halvit_mm.deploy.mask_pasting import paste_masks
from halvit_mm.deploy.programs import exportable
from halvit_mm.errors import UserError

#: None divides into 32, the last is smaller than a window.
SIZES = [(97, 133), (230, 150), (40, 33)]
RCNN = dict(roi_head=dict(mask_head=None, mask_roi_extractor=None))


def detect(detector: nn.Module, image: np.ndarray) -> list[Tensor]:
    with torch.no_grad():
        return list(detector(as_input(image)))


def assert_like_mmdet(model: nn.Module, image: np.ndarray, *, at_least: int = 1) -> list[Tensor]:
    found = mmdet_predict(model, image)
    outputs = detect(ExportableDetector(model), image)
    boxes, scores, labels = outputs[:3]
    assert len(scores) >= at_least
    torch.testing.assert_close(scores, found.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes, found.bboxes, rtol=0, atol=1e-4)
    assert torch.equal(labels, found.labels)
    if "masks" in found:
        pasted = paste_masks(outputs[3].numpy(), boxes.numpy(), image.shape[:2])
        wrong = (pasted != found.masks.numpy()).sum(axis=(1, 2))
        assert wrong.max(initial=0) <= 2  # on the rim, where half and less than half meet
    return outputs


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("detector", HEADS)
def test_finds_what_mmdet_finds(detector, backbone):
    model = build(small_config(detector, backbone))
    for i, size in enumerate(SIZES):
        boxes, *_, masks = assert_like_mmdet(model, photograph(*size, seed=i), at_least=10)
        # Boxes end at the image, though the maps go on to the end of the padding.
        assert (boxes >= 0).all() and (boxes[:, 2:] <= torch.tensor(size[::-1])).all()
        assert detector == "retinanet" or 0 < (masks > 0.5).float().mean() < 1


@pytest.mark.parametrize("detector", HEADS)
def test_finds_what_mmdet_finds_in_photographs(detector, test_data):
    model = build(small_config(detector, "halvit"))
    for file in sorted((test_data / "coco_by" / "val").iterdir())[:3]:
        with Image.open(file) as image:
            half = image.convert("RGB").reduce(2)
        assert_like_mmdet(model, np.asarray(half), at_least=10)


@pytest.mark.parametrize(
    "changes",
    {
        "no masks": RCNN,
        "class-agnostic": dict(
            roi_head=dict(
                bbox_head=dict(reg_class_agnostic=True), mask_head=dict(class_agnostic=True)
            )
        ),
        "one level": dict(
            rpn_head=dict(anchor_generator=dict(strides=[4], scales=[4, 16])),
            roi_head=dict(
                bbox_roi_extractor=dict(featmap_strides=[4]),
                mask_roi_extractor=dict(featmap_strides=[4]),
            ),
            neck=dict(strides=[4], num_outs=1),
        ),
        "small proposals dropped": dict(test_cfg=dict(rpn=dict(min_bbox_size=30))),
        "all anchors": dict(test_cfg=dict(rpn=dict(nms_pre=-1))),
        "other thresholds": dict(
            test_cfg=dict(
                rpn=dict(nms=dict(iou_threshold=0.3)), rcnn=dict(nms=dict(iou_threshold=0.8))
            )
        ),
        "suppression across classes": dict(
            test_cfg=dict(rcnn=dict(nms=dict(class_agnostic=True), score_thr=0.1))
        ),
        "other deltas": dict(
            rpn_head=dict(bbox_coder=dict(clip_border=False, target_means=[0.1, 0.0, -0.1, 0.2])),
            roi_head=dict(bbox_head=dict(bbox_coder=dict(target_stds=[0.3, 0.2, 0.5, 0.4]))),
        ),
        "finer pooling": dict(
            roi_head=dict(
                bbox_roi_extractor=dict(finest_scale=14),
                mask_roi_extractor=dict(
                    finest_scale=28, roi_layer=dict(sampling_ratio=2, aligned=False)
                ),
            )
        ),
    }.items(),
    ids=lambda item: item[0],
)
def test_options_of_mask_rcnn(changes):
    name, changes = changes
    model = build(small_config("mask_rcnn", "halvit", **changes))
    outputs = assert_like_mmdet(model, photograph(97, 133), at_least=5)
    assert len(outputs) == (3 if name == "no masks" else 4)


@pytest.mark.parametrize(
    "changes",
    [
        dict(test_cfg=dict(min_bbox_size=20, score_thr=0.5, nms=dict(iou_threshold=0.2))),
        dict(bbox_head=dict(anchor_generator=dict(ratios=[0.3, 2.0], center_offset=0.5))),
        dict(bbox_head=dict(bbox_coder=dict(target_stds=[0.5, 0.5, 0.2, 2.5]))),
        dict(data_preprocessor=dict(bgr_to_rgb=False, mean=[100, 110, 120], std=[1.0, 9.0, 50.0])),
        dict(data_preprocessor=dict(pad_size_divisor=64)),
        dict(data_preprocessor=dict(pad_size_divisor=1)),
    ],
    ids=["limits", "anchors", "deltas", "BGR", "more padding", "no padding"],
)
def test_options_of_retinanet(changes):
    model = build(small_config("retinanet", "halvit", **changes))
    assert_like_mmdet(model, photograph(97, 133), at_least=10)


def test_without_normalisation():
    cfg = small_config("retinanet", "halvit")
    cfg.model.data_preprocessor = dict(type="DetDataPreprocessor", bgr_to_rgb=True)
    assert_like_mmdet(build(cfg), photograph(96, 128), at_least=10)


@pytest.mark.parametrize("detector", HEADS)
def test_own_limits(detector):
    """A threshold and a number of detections of one's own, lower and higher than the config's."""
    model = build(small_config(detector, "halvit"))
    image = photograph(97, 133)
    _, usual, *_ = detect(ExportableDetector(model), image)
    _, few, *_ = detect(ExportableDetector(model, max_per_image=7), image)
    torch.testing.assert_close(few, usual[:7])
    middle = float(usual.median())
    _, high, *_ = detect(ExportableDetector(model, score_threshold=middle), image)
    torch.testing.assert_close(high, usual[usual > middle])
    lenient = ExportableDetector(model, score_threshold=0.01, max_per_image=3000)
    _, all_scores, *_ = detect(lenient, image)
    assert len(all_scores) > len(usual)
    assert all_scores.min() < 0.3


@pytest.mark.parametrize("detector", HEADS)
def test_nothing_found(detector):
    model = build(small_config(detector, "halvit"))
    outputs = detect(ExportableDetector(model, score_threshold=1.0), photograph(97, 133))
    shapes = [(0, 4), (0,), (0,), (0, 28, 28)]
    assert [tuple(out.shape) for out in outputs] == shapes[: len(outputs)]
    assert outputs[2].dtype == torch.int64


def test_no_proposals():
    cfg = small_config("mask_rcnn", "halvit", test_cfg=dict(rpn=dict(min_bbox_size=500)))
    boxes, scores, labels, masks = detect(ExportableDetector(build(cfg)), photograph(97, 133))
    assert (len(boxes), len(scores), len(labels), masks.shape) == (0, 0, 0, (0, 28, 28))


def test_output_names():
    for detector, names in {"retinanet": 3, "mask_rcnn": 4}.items():
        made = ExportableDetector(build(small_config(detector, "halvit")))
        assert made.output_names == ("boxes", "scores", "labels", "masks")[:names]


def test_torch_that_is_too_old_is_refused(monkeypatch):
    """What follows the suppression has a length that torch 2.9 could not trace."""
    model = build(small_config("retinanet", "halvit"))
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1"))
    with pytest.raises(UserError, match=r"^torch 2\.9\.1 cannot .* take torch 2\.10 or newer"):
        exportable(model)
    assert exportable(model, part="backbone").output_names
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.10.0"))
    assert exportable(model).output_names == ("boxes", "scores", "labels")


def test_puts_the_model_into_evaluation_mode_and_copies_nothing():
    model = build(small_config("mask_rcnn", "half_resnet50")).train()
    made = ExportableDetector(model)
    assert not any(module.training for module in made.modules())
    assert {id(p) for p in made.parameters()} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    "path",
    sorted(
        path.name
        for kind in ("mask_rcnn", "retinanet")
        for path in (ROOT / "configs").glob(f"{kind}_*_1x_coco.py")
    ),
)
def test_takes_every_detector_of_the_configs(path):
    model = build_without_weights(Config.fromfile(ROOT / "configs" / path))
    assert ("masks" in ExportableDetector(model).output_names) == path.startswith("mask_rcnn")


@pytest.mark.parametrize(
    ("detector", "changes", "message"),
    [
        ("retinanet", dict(type="FSAF"), "model FSAF .*: .*RetinaNet, .*MaskRCNN"),
        ("mask_rcnn", dict(type="PointRend"), "model PointRend"),
        (
            "retinanet",
            dict(bbox_head=dict(type="RetinaSepBNHead", num_ins=5)),
            "bbox_head RetinaSepBNHead .*: RetinaHead",
        ),
        (
            "retinanet",
            dict(bbox_head=dict(loss_cls=dict(_delete_=True, type="CrossEntropyLoss"))),
            "bbox_head.loss_cls CrossEntropyLoss .* use_sigmoid=True",
        ),
        (
            "retinanet",
            dict(bbox_head=dict(bbox_coder=dict(add_ctr_clamp=True))),
            "bbox_coder DeltaXYWHBBoxCoder .* without add_ctr_clamp",
        ),
        (
            "retinanet",
            dict(bbox_head=dict(bbox_coder=dict(_delete_=True, type="TBLRBBoxCoder"))),
            "bbox_coder TBLRBBoxCoder",
        ),
        (
            "retinanet",
            dict(bbox_head=dict(anchor_generator=dict(type="LegacyAnchorGenerator"))),
            "bbox_head.anchor_generator LegacyAnchorGenerator .* AnchorGenerator",
        ),
        (
            "retinanet",
            dict(test_cfg=dict(nms=dict(type="soft_nms"))),
            "bbox_head.test_cfg.nms=.*soft_nms.*type='nms'",
        ),
        (
            "retinanet",
            dict(data_preprocessor=dict(pad_value=3)),
            "data_preprocessor DetDataPreprocessor .* pad_value=0",
        ),
        (
            "mask_rcnn",
            dict(test_cfg=dict(rpn=dict(nms=dict(type="soft_nms")))),
            "rpn_head.test_cfg.nms",
        ),
        (
            "mask_rcnn",
            dict(test_cfg=dict(rcnn=dict(nms=dict(max_num=5)))),
            "roi_head.test_cfg.nms=.*max_num",
        ),
        (
            "mask_rcnn",
            dict(roi_head=dict(type="DoubleHeadRoIHead", reg_roi_scale_factor=1.3)),
            "roi_head DoubleHeadRoIHead .* StandardRoIHead",
        ),
        (
            "mask_rcnn",
            dict(roi_head=dict(mask_head=dict(type="CoarseMaskHead"))),
            "roi_head.mask_head CoarseMaskHead .* FCNMaskHead",
        ),
        (
            "mask_rcnn",
            dict(roi_head=dict(bbox_head=dict(with_reg=False))),
            "roi_head.bbox_head Shared2FCBBoxHead .* with_reg",
        ),
        (
            "mask_rcnn",
            dict(
                roi_head=dict(
                    bbox_roi_extractor=dict(type="GenericRoIExtractor", aggregation="sum")
                )
            ),
            "roi_head.bbox_roi_extractor GenericRoIExtractor .* SingleRoIExtractor",
        ),
        (
            "mask_rcnn",
            dict(roi_head=dict(mask_roi_extractor=dict(roi_layer=dict(pool_mode="max")))),
            "roi_head.mask_roi_extractor .* pool_mode='avg'",
        ),
    ],
)
def test_unsupported_parts_are_named(detector, changes, message):
    model = build_without_weights(small_config(detector, "halvit", **changes))
    with pytest.raises(UserError, match=message):
        ExportableDetector(model)


def test_a_classifier_is_no_detector():
    cfg = Config.fromfile(ROOT / "configs" / "imagenet" / "halvit_tiny_imagenet.py")
    with pytest.raises(UserError, match=re.escape("ImageClassifier cannot be exported")):
        ExportableDetector(build_without_weights(cfg))


def test_grouped_nms_is_mmcvs():
    """Many overlapping boxes of a few groups, equal scores among them."""
    from mmcv.ops import batched_nms

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * 60
    boxes = torch.cat((corners, corners + torch.rand(400, 2, generator=generator) * 40), dim=1)
    scores = (torch.rand(400, generator=generator) * 50).round() / 50
    groups = torch.randint(0, 3, (400,), generator=generator)
    for threshold in (0.3, 0.5, 0.7):
        cfg = dict(type="nms", iou_threshold=threshold)
        _, expected = batched_nms(boxes, scores, groups, cfg)
        suppress = GroupedNMS(cfg, max_num=-1, owner="x")
        assert torch.equal(suppress(boxes, scores, groups), expected)
        assert 10 < len(expected) < 400


def test_overlap_equal_to_the_threshold_suppresses_nothing():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 3.0]])  # IoU: 0.3 in fp32
    suppress = GroupedNMS(dict(iou_threshold=0.3), max_num=-1, owner="x")
    assert len(suppress(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))) == 2


def test_deltas_are_limited_as_in_mmdet():
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

    coder = DeltaXYWHBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
    priors = torch.tensor([[10.0, 20.0, 30.0, 50.0]]).repeat(5, 1)
    deltas = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 30
    boxes = DeltaDecoder(coder)(priors, deltas, (60, 80))
    torch.testing.assert_close(boxes, coder.decode(priors, deltas, max_shape=(60, 80)))
    assert len({tuple(box) for box in boxes.tolist()}) > 3
