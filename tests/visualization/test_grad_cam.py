"""Grad-CAM of every backbone against its formula, and of detectors by what it must show."""

import cv2
import numpy as np
import pytest
import torch
from looked_into import CLASSES, classifier, detector, photograph
from torch import Tensor
from torch.nn import functional as F

from halvit_mm.errors import UserError
from halvit_mm.layers import WindowLayout
from halvit_mm.visualization.activations import points
from halvit_mm.visualization.grad_cam import default_point, grad_cam
from halvit_mm.visualization.view import view

VIT = dict(arch=dict(dim=12, depth=4, num_heads=2), img_size=(48, 64), patch_size=8)
SWIN = dict(arch=dict(dim=8, depths=(2, 4), num_heads=(2, 4)), share=2, window_size=3)
#: Backbone, its width, and layers or stages to look at.
BACKBONES = {
    "halvit": (dict(type="HaLViT", **VIT), 12, (0, 2)),
    "halvit, average": (dict(type="HaLViT", **VIT, with_cls_token=False), 12, (1, 3)),
    "mini deit": (dict(type="MiniDeiT", **VIT, share=4), 12, (0, 1, 2, 3)),
    "mini deit, no norms": (dict(type="MiniDeiT", **VIT, share=4, transforms=()), 12, (0, 1, 2)),
    "mini swin": (dict(type="MiniSwin", **SWIN), 16, (1, 2, 4)),
    "half resnet": (dict(type="HalfResNet", base_channels=8, out_indices=(3,)), 256, (0, 2, 3)),
    "half resnext": (
        dict(type="HalfResNeXt", depth=50, groups=2, base_channels=8, out_indices=(3,)),
        256,
        (1, 3),
    ),
}


def build(name: str):
    backbone, channels, layers = BACKBONES[name]
    loaded = classifier(dict(backbone), channels=channels)
    return loaded, layers


def rest(backbone, index: int, size: tuple[int, int], x: Tensor) -> Tensor:
    """What follows a layer or stage, up to what the head gets, written out for each backbone."""
    kind = type(backbone).__name__
    if kind.startswith("HalfRes"):
        for i in range(index + 2, 5):
            x = getattr(backbone, f"layer{i}")(x)
        return x.mean((2, 3))
    if kind == "MiniSwin":
        first, at = backbone.first_layers, 0
        maps = (-(-size[0] // 4), -(-size[1] // 4))
        for i, stage in enumerate(backbone.stages):
            for at, (block, layout, step) in enumerate(stage.layers(maps), first[i]):
                if at > index:
                    x = block(x, layout, step)
            if stage.downsample is not None:
                if at >= index:
                    x, maps = stage.downsample(x, maps)
                else:
                    maps = (-(-maps[0] // 2), -(-maps[1] // 2))
        return backbone.norm1(x).mean(1)
    maps = (size[0] // 8, size[1] // 8)
    for i in range(index + 1, 4):
        if kind == "HaLViT":
            x = backbone.blocks[i](x, maps)
        else:
            x = backbone.blocks[0](x, WindowLayout(maps), i)
    x = backbone.norm(x)
    return x[:, 0] if backbone.cls_token is not None else x.mean(1)


def by_hand(loaded, seen, index: int, class_index: int) -> np.ndarray:
    backbone = loaded.model.backbone
    point = points(backbone, tuple(seen.inputs.shape[2:]))[index]
    with torch.no_grad():
        if hasattr(backbone, "forward_features"):
            x = backbone.forward_features(seen.inputs, [index])[1][index].hidden
        else:
            x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(seen.inputs))))
            for i in range(1, index + 2):
                x = getattr(backbone, f"layer{i}")(x)
    x = x.detach().requires_grad_()
    logits = loaded.model.head.fc(rest(backbone, index, tuple(seen.inputs.shape[2:]), x))
    torch.testing.assert_close(logits, loaded.model(seen.inputs, mode="tensor"))
    (gradient,) = torch.autograd.grad(logits[0, class_index], x)
    activation, gradient = point.to_map(x.detach())[0], point.to_map(gradient)[0]
    heat = F.relu((gradient.mean((1, 2))[:, None, None] * activation).sum(0)).numpy()
    assert heat.max() > 0, "the map shows nothing, and proves nothing"
    return from_0_to_1(cv2.resize(from_0_to_1(heat), seen.inputs.shape[:1:-1]))


def from_0_to_1(heat: np.ndarray) -> np.ndarray:
    return (heat - heat.min()) / (heat.max() - heat.min())


@pytest.mark.parametrize("name", BACKBONES)
def test_equals_the_formula(name):
    loaded, layers = build(name)
    seen = view(loaded, photograph())
    assert seen.size == (48, 64)
    shown = 0
    for index in layers:
        for class_index in range(3):
            found = grad_cam(loaded.model, seen, class_index=class_index, layer=index)
            assert found.class_index == class_index
            assert found.count is None
            assert found.heat.shape == (48, 64)
            if not found.heat.any():
                continue
            expected = by_hand(loaded, seen, index, class_index)
            np.testing.assert_allclose(found.heat, expected, atol=1e-3)
            shown += 1
    assert shown >= len(layers)


def test_explains_the_surest_class_by_default():
    loaded, _ = build("halvit, average")
    seen = view(loaded, photograph())
    with torch.no_grad():
        probabilities = loaded.model(seen.inputs, mode="tensor")[0].softmax(0)
    found = grad_cam(loaded.model, seen)
    assert found.class_index == probabilities.argmax()
    assert found.score == pytest.approx(float(probabilities.max()))
    other = (found.class_index + 1) % 3
    found = grad_cam(loaded.model, seen, class_index=other)
    assert found.score == pytest.approx(float(probabilities[other]))


def test_shows_where_the_evidence_is():
    """Of a model whose class is brightness, the spot: upper left, not transposed or flipped."""
    backbone, _, _ = BACKBONES["halvit, average"]
    loaded = classifier(dict(backbone), channels=12)
    model = loaded.model
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data.zero_()
    model.backbone.patch_embed.weight.data[0] = 1 / 192  # one channel is brightness,
    model.backbone.patch_embed.bias.data[1] = (
        3.0  # and one of the others keeps norms from undoing it
    )
    model.head.fc.weight.data[1, 0] = 1
    seen = view(loaded, photograph())
    found = grad_cam(model, seen, class_index=1, layer=3)
    y, x = np.unravel_index(found.heat.argmax(), found.heat.shape)
    assert abs(y - 12) <= 6
    assert abs(x - 16) <= 6


@pytest.mark.parametrize(
    ("name", "expected"),
    [("halvit", 2), ("halvit, average", 2), ("mini deit", 2), ("mini swin", 4), ("half resnet", 3)],
)
def test_default_point(name, expected):
    loaded, _ = build(name)
    reached = points(loaded.model.backbone, (48, 64))
    assert default_point(reached) == expected
    assert default_point(reached[:1]) == 0
    seen = view(loaded, photograph())
    for class_index in range(3):
        default = grad_cam(loaded.model, seen, class_index=class_index)
        named = grad_cam(loaded.model, seen, class_index=class_index, layer=expected)
        np.testing.assert_array_equal(default.heat, named.heat)


@pytest.mark.parametrize("frozen", [0, 4])
def test_leaves_the_model_as_it_was(frozen):
    """Frozen or not, with checkpointing or not; no gradients and no hooks stay behind."""
    backbone = dict(BACKBONES["mini deit"][0], with_cp=True, share=1, frozen_stages=frozen)
    loaded = classifier(backbone, channels=12)
    model, seen = loaded.model, view(loaded, photograph())
    learned = [parameter.requires_grad for parameter in model.parameters()]
    assert not all(learned)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpointed = [grad_cam(model, seen, class_index=i).heat for i in range(3)]
    assert [parameter.requires_grad for parameter in model.parameters()] == learned
    assert model.backbone.with_cp
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    model.backbone.with_cp = False
    for i in range(3):
        np.testing.assert_array_equal(grad_cam(model, seen, class_index=i).heat, checkpointed[i])
    assert any(heat.any() for heat in checkpointed)


def test_layers_that_are_not_there():
    loaded, _ = build("half resnet")
    with pytest.raises(UserError, match="--layer 4: this backbone has 4 of them; give 0 to 3"):
        grad_cam(loaded.model, view(loaded, photograph()), layer=4)


# Detectors

_ANCHORS = dict(type="AnchorGenerator", scales=[1.5], ratios=[1.0])


def backbone_of(kind: str) -> tuple[dict, list[int], list[int]]:
    """A backbone with its widths and strides."""
    if kind == "HaLViT":
        options = {**VIT, "img_size": 64, "with_cls_token": False, "out_type": "featmap"}
        return dict(type=kind, **options), [12], [8]
    if kind == "MiniSwin":
        return dict(type=kind, **SWIN, out_indices=(0, 1)), [8, 16], [4, 8]
    options = dict(base_channels=8, out_indices=(1, 2))
    return dict(type=kind, **options), [64, 128], [8, 16]


def retinanet(kind: str):
    backbone, widths, strides = backbone_of(kind)
    neck = dict(type="ChannelMapper", in_channels=widths, kernel_size=1, out_channels=16)
    return dict(
        type="RetinaNet",
        backbone=backbone,
        neck=neck,
        bbox_head=dict(
            type="RetinaHead",
            num_classes=3,
            in_channels=16,
            stacked_convs=1,
            feat_channels=16,
            anchor_generator=dict(_ANCHORS, strides=strides),
            bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
            loss_cls=dict(type="FocalLoss", use_sigmoid=True),
            loss_bbox=dict(type="L1Loss"),
        ),
        test_cfg=dict(
            nms_pre=100, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10
        ),
    )


def faster_rcnn(kind: str, *, score_thr: float = 0.05):
    backbone, _, strides = backbone_of(kind)
    nms = dict(type="nms", iou_threshold=0.7)
    return dict(
        type="FasterRCNN",
        backbone=backbone,
        neck=retinanet(kind)["neck"],
        rpn_head=dict(
            type="RPNHead",
            in_channels=16,
            feat_channels=16,
            anchor_generator=dict(_ANCHORS, strides=strides),
            bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True),
            loss_bbox=dict(type="L1Loss"),
        ),
        roi_head=dict(
            type="StandardRoIHead",
            bbox_roi_extractor=dict(
                type="SingleRoIExtractor",
                roi_layer=dict(type="RoIAlign", output_size=3, sampling_ratio=0),
                out_channels=16,
                featmap_strides=strides,
            ),
            bbox_head=dict(
                type="Shared2FCBBoxHead",
                in_channels=16,
                fc_out_channels=16,
                roi_feat_size=3,
                num_classes=3,
                bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
                loss_cls=dict(type="CrossEntropyLoss"),
                loss_bbox=dict(type="L1Loss"),
            ),
        ),
        train_cfg=None,
        test_cfg=dict(
            rpn=dict(nms_pre=50, max_per_img=20, nms=nms, min_bbox_size=0),
            rcnn=dict(score_thr=score_thr, nms=nms, max_per_img=10),
        ),
    )


@pytest.mark.parametrize("kind", ["HaLViT", "MiniSwin", "HalfResNet"])
@pytest.mark.parametrize("make", [retinanet, faster_rcnn])
def test_detectors(make, kind):
    """The class of the surest detection, and the heat of its gradient."""
    loaded = detector(make(kind))
    seen = view(loaded, photograph(40, 60))  # padded to 64 × 64
    assert seen.size == (43, 64)
    assert seen.inputs.shape == (1, 3, 64, 64)
    with torch.no_grad():
        (sample,) = loaded.model.predict(seen.inputs, list(seen.samples), rescale=False)
    best = sample.pred_instances[int(sample.pred_instances.scores.argmax())]
    found = grad_cam(loaded.model, seen)
    assert found.class_index == int(best.labels)
    assert found.score == pytest.approx(float(best.scores), abs=1e-5)
    assert found.count >= 1
    assert found.heat.shape == (43, 64)
    assert 0 <= found.heat.min() <= found.heat.max() <= 1
    by_class = [grad_cam(loaded.model, seen, class_index=i, layer=1) for i in range(3)]
    heats = [found.heat for found in by_class if found is not None and found.heat.any()]
    assert len(heats) >= (2 if make is retinanet else 1)  # not every class is found
    assert all(not np.array_equal(heats[0], heat) for heat in heats[1:])


def test_retinanet_adds_up_the_logits_of_sure_places():
    loaded = detector(retinanet("HaLViT"))
    model, seen = loaded.model, view(loaded, photograph(64, 64))
    found = grad_cam(model, seen, class_index=2, layer=1)
    backbone = model.backbone
    x = backbone.forward_features(seen.inputs, [1])[1][1].hidden.detach().requires_grad_()
    after = backbone.norm(backbone.blocks[3](backbone.blocks[2](x, (8, 8)), (8, 8)))
    feats = model.neck([after.transpose(1, 2).unflatten(2, (8, 8))])
    (logits,) = model.bbox_head(feats)[0]
    logits = logits[0, 2]  # one anchor: channel and class are one
    sure = logits.sigmoid() >= min(0.3, float(logits.sigmoid().max()))
    assert 1 <= sure.sum() == found.count < 64
    (gradient,) = torch.autograd.grad(logits[sure].sum(), x)
    heat = F.relu((x.detach() * gradient.mean(1, keepdim=True)).sum(2)).view(8, 8).numpy()
    heat = from_0_to_1(cv2.resize(from_0_to_1(heat), (64, 64)))
    np.testing.assert_allclose(found.heat, heat, atol=1e-3)


def test_faster_rcnn_explains_the_boxes_it_found():
    loaded = detector(faster_rcnn("HaLViT"))
    model, seen = loaded.model, view(loaded, photograph(64, 64))
    found = grad_cam(model, seen, layer=1)
    with torch.no_grad():
        (sample,) = model.predict(seen.inputs, list(seen.samples), rescale=False)
    instances = sample.pred_instances
    sure = instances.scores >= min(0.3, float(instances.scores.max()))
    boxes = instances.bboxes[sure & (instances.labels == found.class_index)]
    assert len(boxes) == found.count
    backbone = model.backbone
    x = backbone.forward_features(seen.inputs, [1])[1][1].hidden.detach().requires_grad_()
    after = backbone.norm(backbone.blocks[3](backbone.blocks[2](x, (8, 8)), (8, 8)))
    feats = model.neck([after.transpose(1, 2).unflatten(2, (8, 8))])
    rois = F.pad(boxes, (1, 0))
    logits, _ = model.roi_head.bbox_head(model.roi_head.bbox_roi_extractor(feats, rois))
    (gradient,) = torch.autograd.grad(logits[:, found.class_index].sum(), x)
    heat = F.relu((x.detach() * gradient.mean(1, keepdim=True)).sum(2)).view(8, 8).numpy()
    heat = from_0_to_1(cv2.resize(from_0_to_1(heat), (64, 64)))
    np.testing.assert_allclose(found.heat, heat, atol=1e-3)


def test_nothing_found_is_nothing_explained():
    loaded = detector(faster_rcnn("HaLViT", score_thr=1.1))
    assert grad_cam(loaded.model, view(loaded, photograph())) is None


def test_detectors_of_other_kinds_are_refused():
    loaded = detector(retinanet("HaLViT"))
    loaded.model.bbox_head.use_sigmoid_cls = False
    with pytest.raises(UserError, match="Grad-CAM: RetinaNet with this head is not among"):
        grad_cam(loaded.model, view(loaded, photograph()))


# What the model sees


@pytest.mark.parametrize(
    ("pipeline", "size", "box"),
    [
        ([], (48, 64), (0, 0, 64, 48)),
        ([dict(type="Resize", scale=(32, 96))], (96, 32), (0, 0, 64, 48)),
        ([dict(type="CenterCrop", crop_size=32)], (32, 32), (16, 8, 48, 40)),
        (
            [
                dict(type="ResizeEdge", scale=96, edge="short"),
                dict(type="CenterCrop", crop_size=64),
            ],
            (64, 64),
            (16, 8, 48, 40),
        ),
    ],
)
def test_the_part_of_the_image_that_is_seen(pipeline, size, box):
    backbone = BACKBONES["half resnet"][0]
    loaded = classifier(dict(backbone), channels=256, pipeline=pipeline)
    image = photograph()
    seen = view(loaded, image)
    assert seen.size == size
    assert seen.inputs.shape == (1, 3, *size)
    assert seen.box == pytest.approx(box, abs=0.5)
    left, top, right, bottom = box
    np.testing.assert_array_equal(seen.image, image[top:bottom, left:right])
    y, x = seen.place(top + 8, left + 16)
    assert y == pytest.approx(8 * size[0] / (bottom - top), abs=1)
    assert x == pytest.approx(16 * size[1] / (right - left), abs=1)
    with pytest.raises(UserError, match="--query 1000,3: the model does not see this place"):
        seen.place(1000, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (300, 2), (2000, 1200)])
def test_images_of_odd_shapes_are_seen(shape):
    loaded = classifier(
        dict(BACKBONES["half resnet"][0]),
        channels=256,
        pipeline=[dict(type="Resize", scale=(64, 64))],
    )
    seen = view(loaded, photograph(*shape))
    assert seen.box == (0, 0, shape[1], shape[0])
    assert seen.image.shape == (*shape, 3)


def test_classes_have_names():
    assert classifier(dict(BACKBONES["half resnet"][0]), channels=256).classes == CLASSES
