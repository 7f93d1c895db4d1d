"""The configs of halved models: what tools/compare_halving.py trains, and recovery on ImageNet."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).resolve().parents[2]
#: Parameters without and with the head. The ViT's are 6·96² + 13·96 in a half-weight block and
#: 12·96² + 13·96 in a dense one.
COMPARED = {
    "half_vit_cifar10": (246_432, 247_402),
    "half_vit_cifar10_distilled": (246_432, 247_402),
    "dense_vit_cifar10": (467_616, 468_586),
    "narrow_vit_cifar10": (246_675, 247_375),
    "half_vit_tinyimagenet": (382_560, 392_260),
    "half_vit_tinyimagenet_distilled": (382_560, 392_260),
    "dense_vit_tinyimagenet": (714_336, 724_036),
    "narrow_vit_tinyimagenet": (379_293, 386_293),
    "half_resnet50_cifar10": (860_944, 866_074),
    "dense_resnet50_cifar10": (1_479_056, 1_484_186),
}
#: The student's parameters with its head, and the teacher's.
RECOVERY = {
    "halvit_tiny": (11_433_832, 22_050_664),
    "halvit_medium": (44_100_328, 86_567_656),
    "mini_deit_small": (11_450_824, 22_050_664),
    "half_resnet50": (15_515_176, 25_557_032),
}


def load(name):
    return Config.fromfile(ROOT / "configs" / f"{name}.py")


def build(cfg):
    with DefaultScope.overwrite_default_scope("mmpretrain"), torch.device("meta"):
        return MODELS.build({"data_preprocessor": cfg.data_preprocessor, **cfg.model})


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", COMPARED)
def test_parameters(name):
    model = build(load(f"halving/{name}"))
    assert (count(model.backbone), count(model)) == COMPARED[name]


def test_every_config_is_known():
    found = {path.stem for path in (ROOT / "configs/halving").glob("*.py")}
    assert found == set(COMPARED)


@pytest.mark.parametrize("data", ["vit_cifar10", "vit_tinyimagenet", "resnet50_cifar10"])
def test_twins_differ_in_the_model_only(data):
    half, dense = (load(f"halving/{kind}_{data}") for kind in ("half", "dense"))
    assert {dense.model.backbone.pop(key, None) for key in ("tied", "tied_stages")} & {False, ()}
    for cfg in (half, dense):
        cfg.model.backbone.pop("signed_ffn", None)
    assert dense.to_dict() == half.to_dict()
    if "vit" in data:
        narrow = load(f"halving/narrow_{data}")
        assert narrow.model.backbone.tied is False
        assert narrow.optim_wrapper == dense.optim_wrapper
        ratio = COMPARED[f"narrow_{data}"][1] / COMPARED[f"half_{data}"][1]
        assert 0.98 < ratio < 1.02


@pytest.mark.parametrize("data", ["cifar10", "tinyimagenet"])
def test_the_distilled_student_is_the_half_model(data):
    half, distilled = (load(f"halving/half_vit_{data}{kind}") for kind in ("", "_distilled"))
    assert distilled.model.backbone == half.model.backbone
    assert distilled.train_dataloader == half.train_dataloader
    teacher = Config.fromfile(distilled.model.teacher.config)
    assert teacher.to_dict() == load(f"halving/dense_vit_{data}").to_dict()


@pytest.mark.parametrize("name", RECOVERY)
def test_recovery(name):
    """A tenth of DeiT's epochs at half of its rate; the teacher is dense and of that size."""
    cfg = load(f"imagenet/{name}_recovery_imagenet")
    teacher = Config.fromfile(cfg.model.teacher.config)
    assert (count(build(cfg)), count(build(teacher))) == RECOVERY[name]
    assert cfg.train_cfg.max_epochs == 30
    assert cfg.optim_wrapper.optimizer.lr == 5e-4
    assert cfg.param_scheduler[-1].end == 30
    assert cfg.model.label_weight == cfg.model.distillation.prediction.weight == 0.5
    assert cfg.load_from == "work_dirs/half.pth"
    assert cfg.model.teacher.checkpoint == "work_dirs/dense.pth"
    assert cfg.model.backbone.type in type(build(teacher).backbone).__name__
