"""Counts against published numbers and hand arithmetic."""

import io

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from halvit_mm.analysis import Part, count_model
from halvit_mm.errors import UserError


def classifier(features: int, classes: int = 1000, neck: str | None = None, **backbone) -> Config:
    head = dict(
        type="LinearClsHead",
        num_classes=classes,
        in_channels=features,
        loss=dict(type="CrossEntropyLoss"),
    )
    model = dict(type="ImageClassifier", backbone=backbone, head=head)
    if neck is not None:
        model["neck"] = dict(type=neck)
    return Config(dict(default_scope="mmpretrain", model=model))


def convnet(**backbone) -> Config:
    return classifier(2048, neck="GlobalAveragePooling", out_indices=(3,), **backbone)


def numbers(stages: tuple[Part, ...], key: str) -> dict[str, int]:
    return {stage.name: getattr(stage, key) for stage in stages}


@pytest.mark.parametrize(
    ("arch", "dim", "backbone", "with_head"),
    [
        ("nano", 192, 2_870_208, 3_063_208),
        ("tiny", 384, 11_048_832, 11_433_832),
        ("medium", 768, 43_331_328, 44_100_328),
    ],
)
def test_halvit(arch, dim, backbone, with_head):
    count = count_model(classifier(dim, type="HaLViT", arch=arch))
    assert count.without_head.parameters == backbone
    assert count.total.parameters == with_head
    # The dense twin has what the naive count has: a weight of its own for every use.
    assert count.without_head.naive == count.dense_twin.without_head.parameters
    assert count.total.naive - count.total.parameters == 12 * 6 * dim**2
    assert count.twin_options == dict(tied=False)
    # Sharing saves no compute: q, k, v, output and two layers of 4 dim; scores and their use.
    tokens = 197
    block = tokens * 12 * dim**2 + 2 * tokens**2 * dim
    macs = 196 * 768 * dim + 12 * block
    assert count.without_head.macs == count.dense_twin.without_head.macs == macs
    assert count.total.macs == macs + 1000 * dim
    assert [stage.name for stage in count.stages] == [
        "stem",
        *(f"blocks.{i}" for i in range(12)),
        "norm",
    ]
    assert count.stages[0].members == ("cls_token", "pos_embed", "patch_embed")
    assert count.stages[1] == Part(
        name="blocks.0",
        members=("blocks.0",),
        parameters=6 * dim**2 + 13 * dim,
        naive=12 * dim**2 + 13 * dim,
        macs=block,
    )


def test_half_resnet50():
    count = count_model(convnet(type="HalfResNet", depth=50))
    assert count.without_head.parameters == 13_466_176
    assert count.total.parameters == 15_515_176
    stages = numbers(count.stages, "parameters")
    assert stages == dict(
        stem=9_536, layer1=215_808, layer2=1_219_584, layer3=3_838_464, layer4=8_182_784
    )
    assert count.stages[0].members == ("conv1", "bn1")
    # W serves twice in each of 6 and 3 blocks; all else serves once.
    stages["layer3"] += (2 * 6 - 1) * 256 * 1024
    stages["layer4"] += (2 * 3 - 1) * 512 * 2048
    assert numbers(count.stages, "naive") == stages
    twin = count.dense_twin
    assert twin.without_head.parameters == twin.without_head.naive == 23_508_032
    assert twin.total.parameters == 25_557_032
    assert count.twin_options == dict(tied_stages=())
    assert twin.dense_twin is None


def test_half_resnext101():
    count = count_model(convnet(type="HalfResNeXt"))
    assert (count.without_head.parameters, count.total.parameters) == (23_827_776, 25_876_776)
    extra = (2 * 23 - 1) * 1024**2 + (2 * 3 - 1) * 2048**2
    assert count.without_head.naive == 23_827_776 + extra
    twin = count.dense_twin
    assert (twin.without_head.parameters, twin.total.parameters) == (86_742_336, 88_791_336)


def test_one_stage_shared_less():
    """Of the two half-weight stages the twin undoes both, the naive count only what is shared."""
    count = count_model(convnet(type="HalfResNet", depth=50, tied_stages=(4,)))
    assert count.without_head.naive - count.without_head.parameters == 5 * 512 * 2048
    assert count.dense_twin.without_head.parameters == 23_508_032


def test_what_does_not_run_counts_once():
    """Blocks after the last output are there, and in the checkpoint, but are not used."""
    count = count_model(classifier(192, type="HaLViT", arch="nano", out_indices=0))
    _, first, second, *_ = count.stages
    assert first.naive - first.parameters == 6 * 192**2
    assert first.macs > 0
    assert second.naive == second.parameters == first.parameters
    assert second.macs == 0


@pytest.mark.parametrize("kind", ["ResNet", "HalfResNet"])
def test_dense_resnet50(kind):
    """mmpretrain's own, and ours with nothing tied: the well-known 25.6M and 4.1 GMACs."""
    options = dict(tied_stages=()) if kind == "HalfResNet" else {}
    count = count_model(convnet(type=kind, depth=50, **options))
    assert count.total.parameters == count.total.naive == 25_557_032
    assert count.total.macs == 4_089_184_256
    assert count.dense_twin is None and count.twin_options is None
    assert numbers(count.stages, "parameters") == dict(
        stem=9_536, layer1=215_808, layer2=1_219_584, layer3=7_098_368, layer4=14_964_736
    )
    assert count.stages[0].macs == 112 * 112 * 64 * 3 * 49


def test_the_size_changes_macs_only():
    cfg = convnet(type="HalfResNet", depth=50, cifar_stem=True)
    small, large = count_model(cfg, (32, 32)), count_model(cfg, (64, 128))
    assert large.without_head.macs == 8 * small.without_head.macs
    assert large.input_size == large.padded_size == (64, 128)
    for key in ("parameters", "naive"):
        assert numbers(small.stages, key) == numbers(large.stages, key)


def test_own_input_channels():
    cfg = classifier(32, type="HaLViT", arch=dict(dim=32, depth=1, num_heads=1), in_channels=4)
    assert count_model(cfg).stages[0].macs == 196 * 4 * 256 * 32


def test_checkpoint_bytes():
    """What torch.save writes, less its bookkeeping; BatchNorm's statistics and counters count."""
    cfg = convnet(type="HalfResNet", depth=50, base_channels=16, stem_channels=16)
    cfg.model.head.in_channels = 512
    count = count_model(cfg)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        state = MODELS.build(cfg.model).state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    assert 0 < len(file.getvalue()) - count.checkpoint_bytes < 500 * len(state)
    assert count.checkpoint_bytes == sum(t.nelement() * t.element_size() for t in state.values())
    shared = count.total.naive - count.total.parameters
    assert count.naive_checkpoint_bytes == count.checkpoint_bytes + 4 * shared > 0


# What cannot be counted


@MODELS.register_module()
class Outsider(nn.Module):
    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)


def test_other_kinds_of_models():
    cfg = Config(dict(model=dict(type="Outsider", backbone=dict(type="HaLViT", arch="nano"))))
    with pytest.raises(UserError, match=r"model\.type=Outsider is neither a detector"):
        count_model(cfg)


def test_a_head_that_does_not_fit():
    cfg = classifier(100, type="HaLViT", arch="nano")
    with pytest.raises(UserError, match=r"model\.head \(LinearClsHead\) cannot run on .*224 × 224"):
        count_model(cfg)


def test_a_size_that_does_not_fit():
    cfg = classifier(84, type="LeNet5")
    with pytest.raises(UserError, match=r"model\.backbone \(LeNet5\) cannot run on .*4 × 4"):
        count_model(cfg, (4, 4))
