"""Models are built without values, and everything else about them is as usual."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from halvit_mm.analysis.weightless import build_without_weights
from halvit_mm.errors import UserError


@MODELS.register_module()
class Aliased(nn.Module):
    """One parameter under two names, and a rate read from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.first.weight = self.second.weight = nn.Parameter(torch.ones(3, 3))
        self.first.bias.requires_grad_(False)
        self.rate = torch.linspace(0, 0.5, 3)[-1].item()
        self.register_buffer("steps", torch.zeros(1))


def classifier(**backbone) -> Config:
    return Config(
        dict(
            default_scope="mmpretrain",
            model=dict(type="ImageClassifier", backbone=backbone),
        )
    )


def test_no_values_are_made():
    state = torch.get_rng_state()
    # 4.8 billion parameters would take 19 GB and minutes.
    cfg = classifier(type="HaLViT", arch=dict(dim=10_000, depth=8, num_heads=1))
    cfg.model.backbone.init_cfg = dict(type="PretrainedBackbone", checkpoint="absent.pth")
    model = build_without_weights(cfg)
    assert all(p.is_meta for p in (*model.parameters(), *model.buffers()))
    assert model.backbone.blocks[0].attn.weight.shape == (20_000, 10_000)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training


def test_the_config_is_left_as_it_is():
    cfg = classifier(type="HaLViT", arch="nano")
    before = cfg.to_dict()
    build_without_weights(cfg)
    assert cfg.to_dict() == before


def test_aliases_and_settings_are_kept():
    backbone = build_without_weights(classifier(type="Aliased")).backbone
    assert backbone.first.weight is backbone.second.weight
    assert [p.requires_grad for p in backbone.first.parameters()] == [True, False]
    assert backbone.rate == 0.5


def test_building_as_usual_afterwards():
    build_without_weights(classifier(type="Aliased"))
    assert not any(p.is_meta for p in Aliased().parameters())


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        (Config(dict(lr=1)), "this config has no model"),
        (Config(dict(model=dict(backbone=dict()))), "this config has no model"),
        (Config(dict(model=dict(type="Aliased"))), "model.type=Aliased has no backbone"),
        (classifier(type="Absent"), r"model\.backbone \(Absent\): .*not in the .*registry"),
        (classifier(type="HaLViT", arch="huge"), r"model\.backbone \(HaLViT\): .*'huge'"),
    ],
)
def test_wrong_configs_are_named(cfg, reason):
    with pytest.raises(UserError, match=reason) as caught:
        build_without_weights(cfg)
    assert "\n" not in str(caught.value)
