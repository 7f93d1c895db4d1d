"""Comparing checkpoints with models, and backbones that start from them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from halvit_mm.backbones import HalfResNet, HaLViT
from halvit_mm.checkpoints import compare, load_backbone
from halvit_mm.errors import UserError

ARCH = dict(dim=32, depth=2, num_heads=2)


def halvit(**options) -> HaLViT:
    return HaLViT(**{"arch": ARCH, "img_size": 64, **options})


def whole_model(backbone: nn.Module, **extra) -> dict:
    weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    return {"state_dict": {**weights, "head.weight": torch.ones(2, 32)}, **extra}


@contextmanager
def log_records() -> Iterator[list[logging.LogRecord]]:
    """What is logged meanwhile by mmengine's current logger."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


# Comparing


def test_compare_counts_each_kind_and_changes_nothing():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = {name: value + 1 for name, value in before.items()}
    given["1.weight"] = torch.ones(3, 4)
    del given["1.bias"], given["2.running_mean"], given["2.num_batches_tracked"]
    given["other"] = torch.ones(1)
    report = compare(model, given)
    assert report.loaded == ("0.weight", "0.bias", "2.weight", "2.bias", "2.running_var")
    assert report.missing == ("1.bias", "2.running_mean")
    assert report.unexpected == ("other",)
    assert report.mismatched == {"1.weight": ((2, 4), (3, 4))}
    assert report.resized == ()
    assert report.fraction == 24 / 34
    assert not report.complete
    assert "1.weight" in given and len(given) == 7
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_compare_agrees_with_what_mmengine_loads():
    from mmengine.runner.checkpoint import load_state_dict

    given = halvit(img_size=96).state_dict()
    given["blocks.1.norm1.weight"] = torch.ones(7)
    model = halvit(with_cls_token=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = compare(model, {name: value + 3 for name, value in given.items()})
    load_state_dict(model, {name: value + 3 for name, value in given.items()})
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {*report.loaded, *report.resized} - {"cls_token"}
    assert report.resized == ("pos_embed", "cls_token")


def test_a_parameter_under_two_names_counts_once():
    model = nn.ModuleDict({"a": nn.Linear(10, 10, bias=False), "b": nn.Linear(10, 1, bias=False)})
    model["alias"] = model["a"]
    assert compare(model, {"alias.weight": torch.ones(10, 10)}).fraction == 100 / 110


def test_report_shows_counts_in_one_line_and_first_names():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)))
    report = compare(
        model, {"0.weight": torch.ones(1, 1), "0.bias": torch.ones(2), "x": torch.ones(1)}
    )
    assert report.summary() == (
        "2.5% of the parameters: loaded 1 tensors, resized 0, missing 38, unexpected 1, "
        "of another shape 1"
    )
    missing, unexpected, shapes = report.details(limit=3).split("\n")
    assert missing == "  missing: 1.weight, 1.bias, 2.weight, … (35 more)"
    assert unexpected == "  unexpected: x"
    assert shapes.endswith("0.bias (1,) ≠ (2,)")


# Backbones


@pytest.mark.parametrize("form", ["whole", "module", "bare"])
def test_backbone_is_found_in_a_whole_model_or_bare(tmp_path, form):
    source, target = halvit(), halvit()
    checkpoint = whole_model(source)["state_dict"]
    if form == "module":
        checkpoint = {f"module.{name}": value for name, value in checkpoint.items()}
    torch.save(source.state_dict() if form == "bare" else checkpoint, tmp_path / "c.pth")
    report = load_backbone(target, tmp_path / "c.pth")
    assert report.complete and report.fraction == 1.0
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_backbone_of_another_input_size_and_token_is_fitted_and_said_so(tmp_path, caplog):
    source, target = halvit(), halvit(img_size=128, with_cls_token=False)
    torch.save(whole_model(source), tmp_path / "c.pth")
    with caplog.at_level("INFO", MMLogger.get_current_instance().name):
        report = load_backbone(target, tmp_path / "c.pth")
    assert report.resized == ("pos_embed", "cls_token")
    assert report.fraction == 1.0
    assert torch.equal(target.blocks[1].attn.weight, source.blocks[1].attn.weight)


def test_backbone_of_another_architecture_is_refused_untouched(tmp_path):
    target = halvit()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    torch.save(whole_model(halvit(arch=dict(dim=48, depth=3, num_heads=2))), tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"c\.pth: .*HaLViT, less than 95%") as caught:
        load_backbone(target, tmp_path / "c.pth")
    assert "0.0% of the parameters: loaded 0 tensors" in str(caught.value)
    assert "blocks.2.norm1.weight" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_the_last_five_percent_are_a_choice(tmp_path):
    source, target = halvit(), halvit()
    weights = source.state_dict()
    weights["patch_embed.weight"] = torch.ones(32, 1, 16, 16)
    torch.save(weights, tmp_path / "c.pth")
    with pytest.raises(UserError, match="less than 95%"):
        load_backbone(target, tmp_path / "c.pth")
    own = target.patch_embed.weight.clone()
    report = load_backbone(target, tmp_path / "c.pth", min_fraction=0.3)
    assert list(report.mismatched) == ["patch_embed.weight"]
    assert torch.equal(target.patch_embed.weight, own)
    assert torch.equal(target.pos_embed, source.pos_embed)


# The initialiser


def vit_classifier(init_cfg) -> nn.Module:
    import mmpretrain.models  # noqa: F401

    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    backbone = dict(type="mmpretrain.VisionTransformer", arch=arch, img_size=64, init_cfg=init_cfg)
    head = dict(type="LinearClsHead", num_classes=3, in_channels=32)
    cfg = dict(type="ImageClassifier", backbone=backbone, head=head, _scope_="mmpretrain")
    return MODELS.build(cfg)


def init_weights(model: nn.Module, seed: int) -> dict:
    torch.manual_seed(seed)
    model.init_weights()
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_nothing_overwrites_what_the_initialiser_loaded(tmp_path):
    # VisionTransformer draws its position embedding after mmengine's initialisation, and its
    # layers bring an initialisation of their own.
    source = vit_classifier(None)
    expected = init_weights(source, seed=1)
    torch.save({"state_dict": expected}, tmp_path / "c.pth")
    init_cfg = dict(type="PretrainedBackbone", checkpoint=str(tmp_path / "c.pth"))
    weights = init_weights(vit_classifier(init_cfg), seed=2)
    for name, value in weights.items():
        if name.startswith("backbone."):
            assert torch.equal(value, expected[name]), name
    assert not torch.equal(weights["head.fc.weight"], expected["head.fc.weight"])


def test_own_initialisation_runs_for_what_the_checkpoint_lacks(tmp_path):
    usual = init_weights(vit_classifier(None), seed=1)
    lacking = {k: v for k, v in usual.items() if "ffn" not in k}
    torch.save({"state_dict": lacking}, tmp_path / "c.pth")
    init_cfg = dict(type="PretrainedBackbone", checkpoint=str(tmp_path / "c.pth"), min_fraction=0.2)
    model = vit_classifier(init_cfg)
    model.init_weights()
    bias = model.backbone.layers[0].ffn.layers[0][0].bias
    assert 0 < bias.abs().max() < 1e-4  # drawn with σ = 1e-6 by the layer's own init_weights


class PlainChild(nn.Module):
    """A child that mmengine initialises but that does not remember it, as BaseModule does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def init_weights(self) -> None:
        nn.init.constant_(self.weight, 7.0)


@pytest.mark.parametrize("lacks", [False, True])
def test_plain_children_are_initialised_once_and_before_loading(tmp_path, lacks):
    path = str(tmp_path / "c.pth")
    torch.save({"other" if lacks else "child.weight": torch.ones(3)}, path)
    backbone = BaseModule(dict(type="PretrainedBackbone", checkpoint=path, min_fraction=0.0))
    backbone.child = PlainChild()
    backbone.init_weights()
    assert backbone.child.weight.tolist() == [7.0 if lacks else 1.0] * 3


def test_without_a_checkpoint_the_usual_initialisation_stays():
    torch.manual_seed(0)
    usual = init_weights(vit_classifier(None), seed=1)
    torch.manual_seed(0)
    init_cfg = dict(type="PretrainedBackbone", checkpoint=None)
    scratch = init_weights(vit_classifier(init_cfg), seed=1)
    assert all(torch.equal(value, usual[name]) for name, value in scratch.items())


def test_an_initialiser_behind_it_is_refused(tmp_path):
    torch.save(halvit().state_dict(), tmp_path / "c.pth")
    pretrained = dict(type="PretrainedBackbone", checkpoint=str(tmp_path / "c.pth"))
    constant = dict(type="Constant", layer="Linear", val=7.0)
    with pytest.raises(UserError, match="Constant would overwrite"):
        halvit(init_cfg=[pretrained, constant]).init_weights()
    halvit(init_cfg=[constant, pretrained]).init_weights()


def test_halvit_starts_from_a_classifier(tmp_path):
    source = halvit()
    torch.save(whole_model(source), tmp_path / "c.pth")
    init_cfg = dict(type="PretrainedBackbone", checkpoint=str(tmp_path / "c.pth"))
    target = halvit(with_cls_token=False, out_type="featmap", init_cfg=init_cfg)
    target.init_weights()
    assert torch.equal(target.blocks[0].ffn.weight, source.blocks[0].ffn.weight)
    assert torch.equal(target.pos_embed, source.pos_embed[:, 1:])


def test_warns_where_what_stays_fixed_has_not_been_loaded(tmp_path):
    """A detector's frozen stage and fixed statistics would be noise for the whole training."""

    def warnings(keep, **options) -> list[str]:
        small = dict(base_channels=8, frozen_stages=1, norm_eval=True)
        weights = {k: v for k, v in HalfResNet(**small).state_dict().items() if keep(k)}
        torch.save(weights, tmp_path / "c.pth")
        init_cfg = dict(type="PretrainedBackbone", checkpoint=None, min_fraction=0.0)
        init_cfg["checkpoint"] = str(tmp_path / "c.pth") if weights else None
        with log_records() as records:
            HalfResNet(**(small | options), init_cfg=init_cfg).init_weights()
        return [r.getMessage() for r in records if "keeps fixed" in r.getMessage()]

    assert not warnings(lambda name: True)
    (partial,) = warnings(lambda name: not name.startswith(("layer3", "layer4")))
    assert "norm_eval" in partial and "frozen_stages" not in partial
    (scratch,) = warnings(lambda name: False)
    assert "norm_eval" in scratch and "frozen_stages=1" in scratch
    assert not warnings(lambda name: False, frozen_stages=-1, norm_eval=False)
