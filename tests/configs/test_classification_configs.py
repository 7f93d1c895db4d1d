"""The classification configs: sizes, controls, recipes, and a step of training."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from tiny_runs import make_folders
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
#: Parameters without and with the head. Those on ImageNet are the published models'; a stem for
#: small images has 7680 fewer, a head for ten classes 10 · 2048 + 10.
PARAMS = {
    "imagenet/half_resnet50_imagenet": (13_466_176, 15_515_176),
    "imagenet/half_resnext101_imagenet": (23_827_776, 25_876_776),
    "imagenet/dense_resnet50_imagenet": (23_508_032, 25_557_032),
    "imagenet/dense_resnext101_imagenet": (86_742_336, 88_791_336),
    "cifar10/half_resnet50_cifar10": (13_458_496, 13_478_986),
    "cifar10/dense_resnet50_cifar10": (23_500_352, 23_520_842),
    "cifar10/narrow_resnet50_cifar10": (13_504_486, 13_519_856),
    "cifar10/small_half_resnet50_cifar10": (860_944, 866_074),
    "cifar10/small_dense_resnet50_cifar10": (1_479_056, 1_484_186),
    "cifar10/small_narrow_resnet50_cifar10": (864_177, 868_027),
}
PARAMS |= {f"{name}_paper": PARAMS[name] for name in PARAMS if name.startswith("imagenet")}
PARAMS |= {
    "imagenet/halvit_nano_imagenet": (2_870_208, 3_063_208),
    "imagenet/halvit_tiny_imagenet": (11_048_832, 11_433_832),
    "imagenet/halvit_tiny_600e_imagenet": (11_048_832, 11_433_832),
    "imagenet/halvit_medium_imagenet": (43_331_328, 44_100_328),
    # With LayerScale: 24 blocks of two vectors of 1024.
    "imagenet/halvit_large_imagenet": (152_306_688 + 49_152, 153_331_688 + 49_152),
    "imagenet/dense_vit_tiny_imagenet": (21_665_664, 22_050_664),
    "imagenet/dense_vit_medium_imagenet": (85_798_656, 86_567_656),
}
#: The twins differ in widths only, and the plain recipe is the same for both families.
TRAINED = [
    "imagenet/half_resnet50_imagenet",
    "imagenet/half_resnet50_imagenet_paper",
    "imagenet/half_resnext101_imagenet",
    "imagenet/halvit_tiny_imagenet",
    "imagenet/halvit_large_imagenet",
    *(name for name in PARAMS if "small" in name),
]


def load(name: str) -> Config:
    return Config.fromfile(ROOT / "configs" / f"{name}.py")


def build(cfg: Config) -> nn.Module:
    """The model as the runner builds it."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build({"data_preprocessor": cfg.data_preprocessor, **cfg.model})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", PARAMS)
def test_parameters(name):
    with torch.device("meta"):
        model = build(load(name))
    assert (count(model.backbone), count(model)) == PARAMS[name]


def test_every_config_is_known():
    found = {
        f"{folder}/{path.stem}"
        for folder in ("imagenet", "cifar10")
        for path in (ROOT / "configs" / folder).glob("*.py")
    }
    assert found == set(PARAMS)


@pytest.mark.parametrize("half", [name for name in PARAMS if "half" in name])
def test_the_dense_twin_differs_in_the_tied_stages_only(half):
    dense = load(half.replace("half", "dense"))
    assert dense.model.backbone.pop("tied_stages") == ()
    assert dense.to_dict() == load(half).to_dict()


@pytest.mark.parametrize("arch", ["tiny", "medium"])
def test_the_dense_twin_of_halvit_differs_in_tying_only(arch):
    dense = load(f"imagenet/dense_vit_{arch}_imagenet")
    assert dense.model.backbone.pop("tied") is False
    assert dense.to_dict() == load(f"imagenet/halvit_{arch}_imagenet").to_dict()


@pytest.mark.parametrize("size", ["", "small_"])
def test_the_narrow_control_has_as_many_parameters(size):
    half, dense, narrow = (
        f"cifar10/{size}{kind}_resnet50_cifar10" for kind in ("half", "dense", "narrow")
    )
    for with_head in (0, 1):
        assert PARAMS[narrow][with_head] == pytest.approx(PARAMS[half][with_head], rel=0.01)
    dense, narrow = load(dense), load(narrow)
    for cfg in (dense, narrow):
        del cfg.model.head.in_channels
        for width in ("base_channels", "stem_channels", "base_width"):
            cfg.model.backbone.pop(width, None)
    assert narrow.to_dict() == dense.to_dict()


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_training(name):
    """With mixed images, where the recipe mixes them; every parameter learns."""
    from mmpretrain.structures import DataSample

    cfg = load(name)
    model = build(cfg)
    side = 32 if "cifar10" in name else 64  # HaLViT fits its position embedding
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    last = cfg.data_preprocessor.num_classes - 1
    batch = dict(
        inputs=images,
        data_samples=[DataSample().set_gt_label(i) for i in (0, 1, 2, last)],
    )
    data = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    assert loss.isfinite()
    assert not [n for n, p in model.named_parameters() if p.grad is None]

    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, training=False), mode="predict")
    assert [result.pred_score.shape for result in results] == [(last + 1,)] * 4


@pytest.mark.parametrize("name", PARAMS)
def test_the_learning_rate_falls_until_the_end(name):
    """Overwriting the number of epochs in one place only is easy."""
    cfg = load(name)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    described = cfg.param_scheduler
    schedulers = []
    for scheduler in described if isinstance(described, list) else [described]:
        if scheduler.by_epoch:
            scheduler.pop("convert_to_iter_based", None)
            schedulers.append(PARAM_SCHEDULERS.build({**scheduler, "optimizer": optimizer}))
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert min(rates[1:]) == rates[-1]  # the first may be warming up
    assert optimizer.param_groups[0]["lr"] < 0.002 * max(rates)


def test_recipes_on_imagenet():
    """What the comments say of the two."""
    plain = load("imagenet/half_resnet50_imagenet_paper")
    assert plain.optim_wrapper.optimizer.type == "SGD"
    assert plain.optim_wrapper.optimizer.lr == 0.1
    assert plain.param_scheduler.milestones == [30, 60, 90]
    modern = load("imagenet/half_resnet50_imagenet")
    assert modern.optim_wrapper.optimizer.type == "Lamb"
    assert modern.optim_wrapper.optimizer.lr == 0.008
    assert {augment.type for augment in modern.model.train_cfg.augments} == {"Mixup", "CutMix"}
    for cfg, batch, pixels in ((plain, 32, 256), (modern, 256, 236)):
        assert cfg.train_cfg.max_epochs == 100
        assert cfg.auto_scale_lr.base_batch_size == 8 * batch
        assert cfg.train_dataloader.batch_size == batch
        pipeline = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
        assert pipeline["ResizeEdge"].scale == pixels
        assert pipeline["CenterCrop"].crop_size == 224


def test_recipe_of_halvit():
    """DeiT's, with weight decay on matrices alone, once for each."""
    cfg = load("imagenet/halvit_tiny_imagenet")
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
    assert cfg.train_dataloader.sampler.type == "RepeatAugSampler"
    assert cfg.train_cfg.max_epochs == 300
    assert load("imagenet/halvit_tiny_600e_imagenet").train_cfg.max_epochs == 600
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(g["params"][0])] for g in optimizer.param_groups if g["weight_decay"]}
    assert all(group["lr"] == 1e-3 for group in optimizer.param_groups)
    assert sorted(names.values()) == sorted(
        names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]
    )
    assert decayed == {
        "backbone.patch_embed.weight",
        "head.fc.weight",
        *(f"backbone.blocks.{i}.{part}.weight" for i in range(12) for part in ("attn", "ffn")),
    }


@pytest.mark.parametrize(
    ("name", "variable", "size"),
    [
        ("imagenet/halvit_tiny_imagenet", "HALVIT_IMAGENET_ROOT", 224),
        ("imagenet/half_resnet50_imagenet", "HALVIT_IMAGENET_ROOT", 224),
        ("imagenet/half_resnet50_imagenet_paper", "HALVIT_IMAGENET_ROOT", 224),
        ("cifar10/half_resnet50_cifar10", "HALVIT_CIFAR10_ROOT", 32),
    ],
)
def test_images_from_the_folder_of_the_variable(tmp_path, monkeypatch, name, variable, size):
    from mmpretrain.registry import DATASETS

    splits = ("train", "val" if "imagenet" in name else "test")
    for split in splits:
        make_folders(tmp_path / split, images=3)
    monkeypatch.setenv(variable, str(tmp_path))
    cfg = load(name)
    assert cfg.test_dataloader == cfg.val_dataloader
    for loader, split in zip((cfg.train_dataloader, cfg.val_dataloader), splits, strict=True):
        loader.dataset.metainfo = dict(classes=("dark", "light"))
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == 6
        for i in range(6):
            item = dataset[i]
            assert item["inputs"].shape == (3, size, size)
            path = Path(item["data_samples"].img_path)
            assert path.is_relative_to(tmp_path / split)
            assert path.parent.name == ("dark", "light")[int(item["data_samples"].gt_label)]


def test_the_classes_of_cifar10_are_sorted():
    """As folders are numbered."""
    classes = load("cifar10/half_resnet50_cifar10").train_dataloader.dataset.metainfo.classes
    assert len(classes) == 10
    assert list(classes) == sorted(classes)
