"""Layer-wise learning rate decay in detectors and classifiers."""

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from tiny_runs import detector_config
from torch import nn

from halvit_mm.engine.layer_decay import decayed_scale
from halvit_mm.errors import UserError

LR, WD, RATE = 1e-3, 0.05, 0.5
VIT = dict(
    type="mmpretrain.VisionTransformer",
    arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
    img_size=64,
    with_cls_token=False,
    out_type="featmap",
)
HALVIT = dict(
    type="HaLViT",
    arch=dict(dim=32, depth=2, num_heads=2),
    img_size=64,
    with_cls_token=False,
    out_type="featmap",
)
BLOCKS = {"mmpretrain.VisionTransformer": "backbone.layers", "HaLViT": "backbone.blocks"}


def detector(tmp_path, backbone: dict) -> nn.Module:
    import mmdet.models  # noqa: F401
    import mmpretrain.models  # noqa: F401

    cfg = Config.fromfile(detector_config(tmp_path / "detector.py", tmp_path))
    cfg.model._scope_ = "mmdet"
    cfg.model.backbone = backbone
    return MODELS.build(cfg.model)


def classifier(backbone: dict) -> nn.Module:
    import mmpretrain.models  # noqa: F401

    backbone = {**backbone, "with_cls_token": True, "out_type": "cls_token"}
    head = dict(type="LinearClsHead", num_classes=3, in_channels=32)
    cfg = dict(type="ImageClassifier", backbone=backbone, head=head, _scope_="mmpretrain")
    return MODELS.build(cfg)


def build(model: nn.Module, constructor="LayerDecayOptimWrapperConstructor", **paramwise):
    cfg = dict(
        optimizer=dict(type="AdamW", lr=LR, weight_decay=WD),
        constructor=constructor,
        paramwise_cfg={"layer_decay_rate": RATE, "flat_decay_mult": 0.0, **paramwise},
    )
    return build_optim_wrapper(model, cfg).optimizer


def options(model: nn.Module, optimizer) -> dict[str, tuple[float, float]]:
    """(lr, weight decay) by parameter name; fails on a parameter in two groups."""
    found = {}
    for group in optimizer.param_groups:
        for param in group["params"]:
            assert id(param) not in found
            found[id(param)] = (group["lr"], group["weight_decay"])
    assert len(found) == sum(p.requires_grad for p in model.parameters())
    return {name: found[id(p)] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("depth", "scale"), [(13, 1.0), (12, 0.8), (1, 0.8**12), (0, 0.8**13)])
def test_scale_falls_by_the_rate_at_each_layer(depth, scale):
    assert decayed_scale(0.8, depth, 14) == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("backbone", [VIT, HALVIT], ids=["vit", "halvit"])
def test_detector_decays_its_backbone_and_nothing_else(tmp_path, backbone):
    model = detector(tmp_path, backbone)
    blocks = BLOCKS[backbone["type"]]
    for name, (lr, wd) in options(model, build(model)).items():
        if name.startswith(("backbone.patch_embed", "backbone.pos_embed")):
            scale = RATE**3
        elif name.startswith(f"{blocks}.0."):
            scale = RATE**2
        elif name.startswith(f"{blocks}.1."):
            scale = RATE
        else:
            scale = 1.0
        assert lr == pytest.approx(LR * scale), name
        assert wd == (0.0 if model.get_parameter(name).ndim == 1 else WD), name


MINI_DEIT = dict(
    type="MiniDeiT",
    arch=dict(dim=32, depth=4, num_heads=2),
    img_size=64,
    out_type="featmap",
)
MINI_SWIN = dict(type="MiniSwin", arch=dict(dim=16, depths=(2, 2), num_heads=(1, 2)), window_size=4)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (
            MINI_DEIT,
            {
                "pos_embed": 0,
                "patch_embed.weight": 0,
                "blocks.0.norm1.0.weight": 1,
                "blocks.0.mix_logits.1.weight": 2,
                "blocks.0.attn.qkv.weight": 2,
                "blocks.1.rel_pos.0.table": 3,
                "blocks.1.ffn.fc1.weight": 4,
                "norm.weight": 5,
            },
        ),
        (
            MINI_SWIN,
            {
                "patch_embed.weight": 0,
                "patch_norm.weight": 0,
                "stages.0.blocks.0.local.0.conv.weight": 1,
                "stages.0.blocks.0.rel_pos.table": 2,
                "stages.0.downsample.reduction.weight": 2,
                "stages.1.blocks.0.norm2.0.weight": 3,
                "stages.1.blocks.0.attn.proj.weight": 4,
                "norm1.weight": 5,
            },
        ),
    ],
    ids=["mini_deit", "mini_swin"],
)
def test_shared_weights_learn_as_the_last_layer_that_uses_them(tmp_path, backbone, expected):
    model = detector(tmp_path, backbone)
    found = options(model, build(model, custom_keys={"rel_pos": dict(decay_mult=0.0)}))
    rates = {name: found[f"backbone.{name}"][0] for name in expected}
    assert rates == pytest.approx({n: LR * RATE ** (5 - depth) for n, depth in expected.items()})
    assert all(lr == LR for name, (lr, _) in found.items() if not name.startswith("backbone."))
    assert {wd for name, (_, wd) in found.items() if "rel_pos" in name} == {0.0}


@pytest.mark.parametrize("backbone", [VIT, HALVIT], ids=["vit", "halvit"])
def test_classifier_gets_what_mmpretrain_gives_it(backbone):
    import mmpretrain.engine  # noqa: F401

    model = classifier(backbone)
    theirs = build(model, "mmpretrain.LearningRateDecayOptimWrapperConstructor")
    expected = options(model, theirs)
    optimizer = build(model)
    for name, found in options(model, optimizer).items():
        assert found == pytest.approx(expected[name]), name
    assert expected["backbone.pos_embed"][0] < expected["head.fc.weight"][0]
    assert len(optimizer.param_groups) < len(theirs.param_groups) / 3


def test_few_groups_in_falling_order(tmp_path):
    groups = build(detector(tmp_path, HALVIT)).param_groups
    assert len(groups) == 8  # four depths, with and without decay
    keys = [(-g["lr"], -g["weight_decay"]) for g in groups]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)


def test_other_rules_still_work_and_multiply(tmp_path):
    model = detector(tmp_path, VIT)
    custom_keys = {"pos_embed": dict(decay_mult=0.0), "layers.1.ffn": dict(lr_mult=0.1, eps=1e-3)}
    optimizer = build(model, custom_keys=custom_keys, flat_decay_mult=1.0, norm_decay_mult=0.5)
    found = options(model, optimizer)
    assert found["backbone.pos_embed"] == pytest.approx((LR * RATE**3, 0.0))
    assert found["backbone.layers.1.ffn.layers.1.weight"] == pytest.approx((LR * RATE * 0.1, WD))
    assert found["backbone.layers.1.ln1.bias"] == pytest.approx((LR * RATE, WD * 0.5))
    assert found["bbox_head.retina_cls.bias"] == pytest.approx((LR, WD))
    special = [g for g in optimizer.param_groups if g["eps"] == 1e-3]
    assert sum(len(g["params"]) for g in special) == 4


def test_frozen_parameters_stay_out(tmp_path):
    model = detector(tmp_path, {**HALVIT, "frozen_stages": 1})
    found = options(model, build(model))
    assert "backbone.blocks.0.attn.weight" not in found
    assert found["backbone.blocks.1.attn.weight"] == pytest.approx((LR * RATE, WD))


def test_a_parameter_under_two_names_is_optimised_once():
    model = classifier(HALVIT)
    model.other = nn.ModuleDict({"alias": model.head})
    found = options(model, build(model))
    assert found["head.fc.weight"] == pytest.approx((LR, WD))


def test_the_log_is_one_table(tmp_path, monkeypatch):
    records = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, "callHandlers", records.append)
    model = detector(tmp_path, {**HALVIT, "frozen_stages": 1})
    optimizer = build(model)
    (message,) = [record.getMessage() for record in records if record.levelname != "DEBUG"]
    lines = message.split("\n")
    assert lines[0] == f"layer-wise learning rate decay 0.5, {len(optimizer.param_groups)} " + (
        "parameter groups:"
    )
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[2:]]
    assert sum(counts) == sum(p.numel() for p in model.parameters())
    assert lines[-1].split()[0] == "frozen" and counts[-1] > 0
    logger.warning("afterwards")
    assert records[-1].getMessage() == "afterwards"


@pytest.mark.parametrize("rate", [None, 0, 1.5, "0.8"])
def test_a_wrong_rate_is_refused(rate):
    with pytest.raises(UserError, match=r"paramwise_cfg\.layer_decay_rate="):
        build(classifier(HALVIT), layer_decay_rate=rate)


def test_a_model_without_depths_is_refused():
    with pytest.raises(UserError, match=r"layer_decay_rate: no part of Sequential has"):
        build(nn.Sequential(nn.Linear(2, 2)))


def test_learning_rates_reach_the_weights(tmp_path):
    # The early layers move less: Adam's first step is lr in each element.
    model = detector(tmp_path, HALVIT)
    optimizer = build(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    moved = {n: (p - before[n]).abs().mean().item() for n, p in model.named_parameters()}
    assert moved["backbone.blocks.0.norm1.bias"] == pytest.approx(LR * RATE**2, rel=1e-3)
    assert moved["bbox_head.retina_cls.bias"] == pytest.approx(LR, rel=1e-3)
