"""Which layers depend on the number of classes, and for how many classes a checkpoint is."""

import pytest
import torch
from mmengine.config import Config

from halvit_mm.checkpoints.class_layers import class_layers, other_classes
from halvit_mm.engine.config_errors import load_config

BBOX, MASK = "roi_head.bbox_head", "roi_head.mask_head"


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (
            "imagenet/halvit_tiny_imagenet.py",
            {"head.fc.weight": (1000, 1), "head.fc.bias": (1000, 1)},
        ),
        (
            "mask_rcnn_halvit_1x_coco.py",
            {
                f"{BBOX}.fc_cls.weight": (81, 1),
                f"{BBOX}.fc_cls.bias": (81, 1),
                f"{BBOX}.fc_reg.weight": (320, 4),
                f"{BBOX}.fc_reg.bias": (320, 4),
                f"{MASK}.conv_logits.weight": (80, 1),
                f"{MASK}.conv_logits.bias": (80, 1),
            },
        ),
        (
            "retinanet_halvit_1x_coco.py",
            {"bbox_head.retina_cls.weight": (720, 9), "bbox_head.retina_cls.bias": (720, 9)},
        ),
    ],
)
def test_layers_of_the_heads(root, config, layers):
    found = class_layers(load_config(root / "configs" / config))
    assert {name: (layer.size, layer.per_class) for name, layer in found.items()} == layers
    assert {layer.axis for layer in found.values()} == {0}


@pytest.mark.parametrize(
    ("own", "shapes", "expected"),
    [
        (80, {"fc_cls.weight": (3, 8), "fc_reg.weight": (8, 8)}, {"bbox_head": (80, 2)}),
        (80, {"fc_cls.weight": (81, 8), "fc_reg.weight": (320, 8)}, {}),
        (80, {"fc_cls.weight": (81, 9)}, {}),  # of another width
        (1, {"fc_cls.weight": (81, 8), "fc_reg.weight": (320, 8)}, {"bbox_head": (1, 80)}),
        (80, {"fc_reg.weight": (321, 8)}, {}),  # of no number of classes
        (80, {"other": (3, 8)}, {}),
    ],
)
def test_numbers_of_classes_follow_from_shapes(root, own, shapes, expected):
    options = {f"model.{head}.num_classes": own for head in (BBOX, MASK)}
    cfg = load_config(root / "configs/mask_rcnn_halvit_1x_coco.py", options)
    weights = {f"{BBOX}.{name}": torch.empty(shape) for name, shape in shapes.items()}
    differing = other_classes(class_layers(cfg), weights)
    assert differing == {f"model.roi_head.{k}.num_classes": v for k, v in expected.items()}


def test_models_without_heads_or_config():
    assert class_layers(Config()) == {}
    assert class_layers(Config(dict(model=dict(type="Anything")))) == {}


def test_a_model_for_test_time_augmentation_is_looked_through(root):
    cfg = load_config(root / "configs/cifar10/small_halvit_cifar10.py")
    cfg.model = dict(type="AverageClsScoreTTA", module=cfg.model)
    assert list(class_layers(cfg)) == ["head.fc.weight", "head.fc.bias"]
