"""The classification configs: sizes, controls, recipes, and a step of training."""

import math
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, DefaultScope
from PIL import Image
from tiny_runs import make_folders
from torch import nn

from halvit_mm.datasets.image_archive import read_classes
from halvit_mm.errors import UserError

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
PARAMS |= {
    f"imagenet/halvit_large_{divided}_imagenet": PARAMS["imagenet/halvit_large_imagenet"]
    for divided in ("fsdp", "deepspeed")
}
#: HaLViTs for small images and their controls. A HaLViT's block has 6·dim² + 13·dim parameters, a
#: dense one 12·dim² + 13·dim.
PARAMS |= {
    "cifar10/halvit_cifar10": (2_706_240, 2_708_170),
    "cifar10/dense_vit_cifar10": (5_360_448, 5_362_378),
    "cifar10/narrow_vit_cifar10": (2_700_280, 2_701_650),
    "cifar10/small_halvit_cifar10": (237_216, 238_186),
    "cifar10/small_dense_vit_cifar10": (458_400, 459_370),
    "cifar10/small_narrow_vit_cifar10": (240_051, 240_751),
    "tinyimagenet/halvit_tinyimagenet": (2_733_888, 2_753_188),
    "tinyimagenet/dense_vit_tinyimagenet": (5_388_096, 5_407_396),
    "tinyimagenet/narrow_vit_tinyimagenet": (2_719_864, 2_733_564),
    "tinyimagenet/small_halvit_tinyimagenet": (361_440, 371_140),
    "tinyimagenet/small_dense_vit_tinyimagenet": (693_216, 702_916),
    "tinyimagenet/small_narrow_vit_tinyimagenet": (364_113, 371_113),
}
#: MiniViT as published and unshared (with the head), and with HaLViT's tying inside (ours).
MINIVIT = {
    "mini_deit_tiny": (2_897_304, 3_090_304),
    "mini_deit_small": (11_065_824, 11_450_824),
    "mini_deit_base": (43_329_408, 44_098_408),
    "mini_deit_base_384": (43_621_248, 44_390_248),
    "mini_deit_base_one_block": (7_905_408, 8_674_408),
    "mini_deit_small_tied": (5_757_408, 6_142_408),
    "mini_deit_base_tied": (22_095_744, 22_864_744),
    "dense_deit_tiny": (5_524_416, 5_717_416),
    "dense_deit_small": (21_665_664, 22_050_664),
    "dense_deit_base": (85_798_656, 86_567_656),
    "mini_swin_tiny": (11_232_765, 12_001_765),
    "mini_swin_small": (25_694_205, 26_463_205),
    "mini_swin_base": (45_419_852, 46_444_852),
    "mini_swin_base_384": (45_487_532, 46_512_532),
    "mini_swin_tiny_tied": (6_532_605, 7_301_605),
    "mini_swin_base_tied": (24_481_100, 25_506_100),
    "dense_swin_tiny": (27_519_354, 28_288_354),
    "dense_swin_small": (48_837_258, 49_606_258),
    "dense_swin_base": (86_743_224, 87_768_224),
    "dense_swin_base_384": (86_878_584, 87_903_584),
}
DISTILLED = [
    f"mini_{kind}_{size}" for kind in ("deit", "swin") for size in ("tiny", "small", "base")
]
MINIVIT |= {f"{name}_distilled": MINIVIT[name] for name in DISTILLED}
PARAMS |= {f"imagenet/{name}_imagenet": params for name, params in MINIVIT.items()}
PARAMS |= {
    "cifar10/small_mini_swin_cifar10": (518_562, 519_852),
    "cifar10/small_mini_swin_distilled_cifar10": (518_562, 519_852),
    "cifar10/small_mini_swin_teacher_cifar10": (2_134_686, 2_136_616),
}
#: For models that were dense before; tests/configs/test_halving_configs.py.
RECOVERY = {
    f"imagenet/{name}_recovery_imagenet"
    for name in ("halvit_tiny", "halvit_medium", "mini_deit_small", "half_resnet50")
}
SMALL_SETS = ["cifar10", "tinyimagenet"]
HALVITS = [f"{folder}/{size}halvit_{folder}" for folder in SMALL_SETS for size in ("", "small_")]
SIGNED = {name.replace("halvit", "halvit_signed"): name for name in HALVITS}
PARAMS |= {signed: PARAMS[plain] for signed, plain in SIGNED.items()}  # signs cost none
#: The twins differ in widths only, and the plain recipe is the same for both families.
TRAINED = [
    "imagenet/half_resnet50_imagenet",
    "imagenet/half_resnet50_imagenet_paper",
    "imagenet/half_resnext101_imagenet",
    "imagenet/halvit_tiny_imagenet",
    "imagenet/halvit_large_imagenet",
    "imagenet/mini_deit_tiny_imagenet",
    "imagenet/dense_deit_tiny_imagenet",
    "imagenet/mini_deit_small_tied_imagenet",
    "imagenet/mini_deit_base_one_block_imagenet",
    "imagenet/mini_swin_tiny_imagenet",
    "imagenet/dense_swin_tiny_imagenet",
    "imagenet/mini_swin_tiny_tied_imagenet",
    *(name for name in PARAMS if "/small_" in name and "distilled" not in name),
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
        for folder in ("imagenet", *SMALL_SETS)
        for path in (ROOT / "configs" / folder).glob("*.py")
    }
    assert found == set(PARAMS) | RECOVERY


@pytest.mark.parametrize(
    ("divided", "strategy"),
    [("fsdp", "SharedWeightFSDPStrategy"), ("deepspeed", "DeepSpeedStrategy")],
)
def test_divided_trainings_differ_in_the_strategy_and_in_averages(divided, strategy):
    """Averages need whole weights."""
    cfg, whole = (
        load(f"imagenet/halvit_large_{divided}_imagenet"),
        load("imagenet/halvit_large_imagenet"),
    )
    assert (cfg.pop("runner_type"), cfg.pop("strategy").type) == ("FlexibleRunner", strategy)
    assert [hook for hook in whole.custom_hooks if hook.type != "EMAHook"] == cfg.custom_hooks
    assert len(whole.custom_hooks) == len(cfg.custom_hooks) + 1
    cfg.custom_hooks = whole.custom_hooks
    assert cfg.to_dict() == whole.to_dict()


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


@pytest.mark.parametrize("name", HALVITS)
def test_controls_of_halvits_for_small_images_differ_in_the_model_only(name):
    halvit = load(name)
    dense, narrow = (load(name.replace("halvit", f"{kind}_vit")) for kind in ("dense", "narrow"))
    signed = load(name.replace("halvit", "halvit_signed"))
    assert signed.model.backbone.pop("signed_ffn") is True
    assert signed.to_dict() == halvit.to_dict()
    assert dense.model.backbone.pop("tied") is narrow.model.backbone.pop("tied") is False
    assert dense.to_dict() == halvit.to_dict()
    dim = narrow.model.backbone.arch.pop("dim")
    assert dim == narrow.model.head.pop("in_channels") < dense.model.backbone.arch.pop("dim")
    for cfg in (dense, narrow):
        cfg.model.backbone.arch.pop("num_heads")
        cfg.model.head.pop("in_channels", None)
    assert narrow.to_dict() == dense.to_dict()


@pytest.mark.parametrize("name", HALVITS)
def test_narrow_controls_of_halvits_have_as_many_parameters(name):
    for narrow, half in zip(
        PARAMS[name.replace("halvit", "narrow_vit")], PARAMS[name], strict=True
    ):
        assert narrow == pytest.approx(half, rel=0.015)


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
    side = 32 if "cifar10" in name else 64  # HaLViT fits its position embedding to any
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


@pytest.fixture
def real(monkeypatch, test_data):
    """Sets the folders of the real images."""
    monkeypatch.setenv("HALVIT_CIFAR10_ROOT", str(test_data / "tiny"))
    monkeypatch.setenv("HALVIT_TINYIMAGENET_ROOT", str(test_data / "tinyimagenet100"))


def batch_of(cfg: Config, loader: str, indices: list[int]) -> dict:
    """Images of a loader's set through its pipeline."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        dataset = DATASETS.build({**cfg[loader].dataset, "indices": indices})
    items = [dataset[i] for i in range(len(dataset))]
    return {key: [item[key] for item in items] for key in ("inputs", "data_samples")}


@pytest.mark.parametrize("name", [n for n in TRAINED if "/small_" in n and "resnet" not in n])
def test_a_step_on_real_images(real, name):
    """From the archive through the config's pipeline and optimiser: every parameter moves."""
    cfg = load(name)
    torch.manual_seed(0)
    np.random.seed(0)
    batch = batch_of(cfg, "train_dataloader", [0, 50, 100, 150])
    side = cfg.model.backbone.get("img_size", 32)
    assert [image.shape for image in batch["inputs"]] == [(3, side, side)] * 4
    batch["inputs"] = torch.stack(batch["inputs"])
    model = build(cfg)
    model.init_weights()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    data = model.data_preprocessor(batch, training=True)
    assert data["inputs"].abs().mean() < 2  # normalised
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    optimizer.update_params(loss)
    classes = cfg.model.head.num_classes
    assert loss.item() == pytest.approx(math.log(classes), rel=0.5)
    assert not [n for n, p in model.named_parameters() if torch.equal(p, before[n])]


@pytest.mark.parametrize("folder", SMALL_SETS)
def test_augmentation_of_small_images(real, folder):
    """RandAugment, crops and erased areas give another image of the same size each time."""
    cfg = load(f"{folder}/halvit_{folder}")
    side = cfg.model.backbone.img_size
    np.random.seed(0)
    torch.manual_seed(0)
    numbers = [3] * 8 + [40] * 8
    batch = batch_of(cfg, "train_dataloader", numbers)
    assert {(image.shape, image.dtype) for image in batch["inputs"]} == {
        ((3, side, side), torch.uint8)
    }
    distinct = {image.numpy().tobytes() for image in batch["inputs"]}
    assert len(distinct) == 16
    labels = [int(sample.gt_label) for sample in batch["data_samples"]]
    assert len(set(labels[:8])) == len(set(labels[8:])) == 1

    batch = batch_of(cfg, "test_dataloader", [7, 7])
    assert torch.equal(*batch["inputs"])  # nothing random in a test
    assert batch["inputs"][0].shape == (3, side, side)


def test_colours_of_filled_areas_come_in_the_order_of_images():
    """Blue first, where the data preprocessor's means begin with red."""
    for folder in SMALL_SETS:
        cfg = load(f"{folder}/halvit_{folder}")
        mean = cfg.data_preprocessor.mean
        steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
        filled = steps["RandAugment"].hparams.pad_val
        assert filled == pytest.approx(mean[::-1], abs=0.51)


def learning_rates(cfg: Config, base: float = 1.0) -> list[float]:
    """The rate of each epoch and the one after the last, where the optimiser's is ``base``."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=base)
    described = cfg.param_scheduler
    schedulers = []
    for scheduler in described if isinstance(described, list) else [described]:
        if scheduler.by_epoch:
            scheduler.pop("convert_to_iter_based", None)
            schedulers.append(PARAM_SCHEDULERS.build({**scheduler, "optimizer": optimizer}))
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(cfg.train_cfg.max_epochs):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("name", [n for n in PARAMS if n != "imagenet/mini_deit_base_384_imagenet"])
def test_the_learning_rate_falls_until_the_end(name):
    """Overwriting the number of epochs in one place only is easy."""
    *rates, end = learning_rates(load(name))
    assert min(rates[1:] or rates) == rates[-1]  # the first may be warming up
    assert end < 0.005 * max(rates)


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
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.type, warm_up.end) == ("LinearLR", 5)
    assert (decay.type, decay.begin, decay.end) == ("CosineAnnealingLR", 5, 300)
    assert_deits_augmentation(cfg)
    assert cfg.model.head.loss.label_smooth_val == 0.1
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


def assert_deits_augmentation(cfg: Config) -> None:
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    augment = steps["RandAugment"]
    assert (augment.magnitude_level, augment.magnitude_std, augment.num_policies) == (9, 0.5, 2)
    assert steps["RandomErasing"].erase_prob == 0.25
    mixed = {augment.type: augment.alpha for augment in cfg.model.train_cfg.augments}
    assert mixed == {"Mixup": 0.8, "CutMix": 1.0}
    assert cfg.data_preprocessor.num_classes == cfg.model.head.num_classes


def decayed(cfg: Config) -> set[str]:
    """Names of the parameters with weight decay, after a look at the groups as a whole."""
    with torch.device("meta"):
        model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    grouped = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(names.values())
    assert {group["lr"] for group in groups} == {cfg.optim_wrapper.optimizer.lr}
    assert {group["weight_decay"] for group in groups} == {
        0,
        cfg.optim_wrapper.optimizer.weight_decay,
    }
    return {
        names[id(parameter)]
        for group in groups
        if group["weight_decay"]
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    "name", ["mini_deit_tiny", "mini_deit_base_384", "mini_deit_small_distilled"]
)
def test_weight_decay_of_mini_deit(name):
    """On matrices, those that mix heads included; not on positions of both kinds."""
    shared = ("attn.qkv", "attn.proj", "ffn.fc1", "ffn.fc2")
    own = ("mix_logits.0", "mix_logits.1", "mix_weights.0", "mix_weights.1")
    assert decayed(load(f"imagenet/{name}_imagenet")) == {
        "backbone.patch_embed.weight",
        "head.fc.weight",
        *(f"backbone.blocks.{i}.{part}.weight" for i in range(6) for part in (*shared, *own)),
    }


@pytest.mark.parametrize("name", ["mini_swin_tiny", "mini_swin_tiny_distilled"])
def test_weight_decay_of_mini_swin(name):
    """On matrices and convolutions, not on the tables of relative positions."""
    shared = ("attn.qkv", "attn.proj", "ffn.fc1", "ffn.fc2")
    own = ("mix_logits.{}", "mix_weights.{}", "local.{}.conv")
    stages = {
        f"backbone.stages.{stage}.blocks.0.{part.format(step)}.weight"
        for stage, steps in enumerate((2, 2, 6, 2))
        for step in range(steps)
        for part in (*shared, *own)
    }
    assert decayed(load(f"imagenet/{name}_imagenet")) == stages | {
        "backbone.patch_embed.weight",
        "head.fc.weight",
        *(f"backbone.stages.{stage}.downsample.reduction.weight" for stage in range(3)),
    }


@pytest.mark.parametrize("distilled", ["", "_distilled"])
@pytest.mark.parametrize(
    ("kind", "warm_up", "clip", "averages", "sampler"),
    [
        ("deit", 5, None, 1, "RepeatAugSampler"),
        ("swin", 20, dict(max_norm=5.0), 0, "DefaultSampler"),
    ],
)
def test_recipes_of_minivit(kind, warm_up, clip, averages, sampler, distilled):
    """The published numbers; those of the two families differ."""
    rates = dict(deit=(0.0, 0.0, 0.1), swin=(0.0, 0.1, 0.2))[kind]
    for size, drop_path in zip(("tiny", "small", "base"), rates, strict=True):
        cfg = load(f"imagenet/mini_{kind}_{size}{distilled}_imagenet")
        assert cfg.model.backbone.get("drop_path_rate", 0.0) == drop_path
        assert cfg.model.backbone.arch == size
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 1e-3, 0.05)
        assert (optimizer.betas, optimizer.eps) == ((0.9, 0.999), 1e-8)
        assert cfg.optim_wrapper.clip_grad == clip
        assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 1024
        assert cfg.train_dataloader.sampler == dict(
            cfg.train_dataloader.sampler, type=sampler, shuffle=True
        )
        hooks = [hook for hook in cfg.custom_hooks if hook.type == "EMAHook"]
        assert [hook.momentum for hook in hooks] == [4e-5] * averages
        assert "CheckpointGuardHook" in [hook.type for hook in cfg.custom_hooks]
        first, then = cfg.param_scheduler
        assert (first.start_factor, first.end, then.begin, then.end) == (
            1e-3,
            warm_up,
            warm_up,
            300,
        )
        assert (then.eta_min, then.T_max, cfg.train_cfg.max_epochs) == (1e-5, 300 - warm_up, 300)
        assert_deits_augmentation(cfg)
        assert cfg.model.head.loss.label_smooth_val == 0.1
        steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
        crop = steps["RandomResizedCrop"]
        assert (crop.scale, crop.interpolation) == (224, "bicubic")


@pytest.mark.parametrize(
    ("kind", "rate", "start", "end", "clip", "drop_path"),
    [
        ("deit", 2.5e-6, 1e-6, 5e-6, None, 0.0),
        ("swin", 1e-5, 2.5e-7, 2.5e-6, dict(max_norm=5.0), 0.2),
    ],
)
def test_fine_tuning_at_384_pixels(kind, rate, start, end, clip, drop_path):
    cfg = load(f"imagenet/mini_{kind}_base_384_imagenet")
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (rate, 1e-8)
    assert cfg.optim_wrapper.clip_grad == clip
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 256
    assert cfg.train_cfg.max_epochs == 30
    assert cfg.model.backbone.get("drop_path_rate", 0.0) == drop_path
    first, then = cfg.param_scheduler
    assert first.start_factor * rate == pytest.approx(start)
    assert (first.end, then.begin, then.T_max, then.end, then.eta_min) == (5, 5, 25, 30, end)
    assert_deits_augmentation(cfg)
    large = load(f"imagenet/mini_{kind}_base_imagenet")
    assert cfg.train_dataloader.sampler == large.train_dataloader.sampler
    assert cfg.custom_hooks == large.custom_hooks
    # Everything but the size stays as it was.
    ours, theirs = (c.train_dataloader.dataset.pipeline for c in (cfg, large))
    for step, same in zip(ours, theirs, strict=True):
        size = dict(scale=384) if step.type == "RandomResizedCrop" else {}
        assert step | dict(_scope_=None) == same | dict(_scope_=None) | size
    assert cfg.test_dataloader == cfg.val_dataloader


def test_fine_tuning_mini_deit_raises_the_rate_to_the_published_end():
    cfg = load("imagenet/mini_deit_base_384_imagenet")
    rates = learning_rates(cfg, cfg.optim_wrapper.optimizer.lr)
    assert rates == sorted(rates)
    assert [rates[0], rates[5], rates[-1]] == pytest.approx([1e-6, 2.5e-6, 5e-6], rel=0.01)


@pytest.mark.parametrize(
    "name", [name for name in MINIVIT if name.startswith("dense") or name.endswith("tied")]
)
def test_variants_of_minivit_differ_in_the_backbone_only(name):
    options = dict(tied=True)
    if name.startswith("dense"):
        options = dict(share=1, transforms=False)
    if name.startswith("dense_deit"):
        options["with_cls_token"] = True
    mini = name.replace("dense", "mini").replace("_tied", "")
    variant, published = (load(f"imagenet/{n}_imagenet") for n in (name, mini))
    for option, value in options.items():
        assert variant.model.backbone.pop(option) == value
    assert variant.to_dict() == published.to_dict()


@pytest.mark.parametrize("name", DISTILLED)
def test_distillation_changes_nothing_else(name):
    """Levels and their weights as published; no loss on labels, which is the default."""
    distilled, alone = (load(f"imagenet/{name}{kind}_imagenet") for kind in ("_distilled", ""))
    model = distilled.model
    assert (model.pop("type"), alone.model.pop("type")) == (
        "DistilledClassifier",
        "ImageClassifier",
    )
    teacher, levels = model.pop("teacher"), model.pop("distillation")
    if "deit" in name:
        assert levels == dict(prediction=dict(form="kl"))
        assert Path(teacher.config).samefile(ROOT / "configs/_base_/teachers/regnety_16gf.py")
    else:
        assert levels == dict(prediction={}, attention={}, hidden=dict(weight=0.1))
        assert teacher.config == "mmpretrain::swin_transformer/swin-base_16xb64_in1k.py"
    assert distilled.custom_imports.pop("imports") == ["halvit_mm", "halvit_mm.distillation"]
    alone.custom_imports.pop("imports")
    assert distilled.to_dict() == alone.to_dict()


def test_the_swin_teacher_is_mmpretrains_from_imagenet_22k():
    import mmpretrain

    folder = Path(mmpretrain.__file__).parent / ".mim" / "configs" / "swin_transformer"
    if not folder.is_dir():
        pytest.skip("this installation of mmpretrain has no configs beside it")
    models = yaml.safe_load((folder / "metafile.yml").read_text())["Models"]
    (entry,) = [m for m in models if m["Name"] == "swin-base_in21k-pre-3rdparty_in1k"]
    teacher = load("imagenet/mini_swin_tiny_distilled_imagenet").model.teacher
    # The host is another one in older versions.
    assert urlparse(teacher.checkpoint).path == urlparse(entry["Weights"]).path
    assert teacher.config == entry["Config"].replace("configs/", "mmpretrain::")


@pytest.mark.full
def test_the_published_pairs_of_layers_fit(monkeypatch):
    """Mini-Swin-T beside the Swin-B of its config, whose weights are of no importance here."""
    from halvit_mm.distillation import teacher

    monkeypatch.setattr(teacher, "_load", lambda model, asked: None)
    model = build(load("imagenet/mini_swin_tiny_distilled_imagenet"))
    model._prepare()
    published = ((1, 1), (3, 3), (5, 9), (7, 15), (9, 21), (11, 23))
    assert model._pairs == dict(attention=published, hidden=published)


def test_the_teacher_of_mini_deit_asks_for_timm(monkeypatch):
    from mmpretrain.models import TimmClassifier
    from mmpretrain.utils import dependency

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(dependency, "distribution", missing)
    init = dependency.require("timm")(TimmClassifier.__init__)  # as if imported without timm
    monkeypatch.setattr(TimmClassifier, "__init__", init)
    model = build(load("imagenet/mini_deit_tiny_distilled_imagenet"))
    with pytest.raises(UserError, match=r"regnety_16gf\.py: .*pip install \"timm\""):
        model.init_weights()


def test_larger_halvits_are_steadied():
    """Stochastic depth and averaged weights, LayerScale in the largest."""
    medium, large = (load(f"imagenet/halvit_{size}_imagenet") for size in ("medium", "large"))
    for cfg in (medium, large):
        (average,) = [hook for hook in cfg.custom_hooks if hook.type == "EMAHook"]
        assert average.momentum == 4e-5
        assert "CheckpointGuardHook" in [hook.type for hook in cfg.custom_hooks]
    assert medium.model.backbone.drop_path_rate == 0.1
    assert large.model.backbone.drop_path_rate == 0.3
    assert large.model.backbone.layer_scale == 1e-4


@pytest.mark.parametrize("folder", SMALL_SETS)
def test_recipes_on_small_sets(folder):
    """DeiT's on one GPU; little augmentation and few epochs on a CPU."""
    cfg = load(f"{folder}/halvit_{folder}")
    assert_deits_augmentation(cfg)
    assert cfg.train_cfg.max_epochs == 100
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size == 512
    small = load(f"{folder}/small_halvit_{folder}")
    assert small.train_cfg.max_epochs <= 6
    assert small.auto_scale_lr.base_batch_size == small.train_dataloader.batch_size == 64
    assert small.model.get("train_cfg") is None
    steps = {step.type for step in small.train_dataloader.dataset.pipeline}
    assert not steps & {"RandAugment", "RandomErasing"}
    for same in (cfg, small):
        assert same.test_dataloader == same.val_dataloader
        assert same.val_dataloader.dataset.split == ("test" if folder == "cifar10" else "val")


@pytest.mark.parametrize(
    ("name", "variable", "size"),
    [
        ("imagenet/halvit_tiny_imagenet", "HALVIT_IMAGENET_ROOT", 224),
        ("imagenet/mini_swin_tiny_imagenet", "HALVIT_IMAGENET_ROOT", 224),
        ("imagenet/mini_deit_base_384_imagenet", "HALVIT_IMAGENET_ROOT", 384),
        ("imagenet/mini_swin_base_384_imagenet", "HALVIT_IMAGENET_ROOT", 384),
        ("imagenet/half_resnet50_imagenet", "HALVIT_IMAGENET_ROOT", 224),
        ("imagenet/half_resnet50_imagenet_paper", "HALVIT_IMAGENET_ROOT", 224),
        ("cifar10/half_resnet50_cifar10", "HALVIT_CIFAR10_ROOT", 32),
        ("tinyimagenet/halvit_tinyimagenet", "HALVIT_TINYIMAGENET_ROOT", 64),
        ("tinyimagenet/small_halvit_tinyimagenet", "HALVIT_TINYIMAGENET_ROOT", 48),
    ],
)
def test_images_from_the_folder_of_the_variable(tmp_path, monkeypatch, name, variable, size):
    splits = ("train", "test" if "cifar10" in name else "val")
    for split in splits:
        make_folders(tmp_path / split, images=3)
        for file in (tmp_path / split).rglob("*.png") if "tinyimagenet" in name else ():
            Image.open(file).resize((64, 64)).save(file)
    monkeypatch.setenv(variable, str(tmp_path))
    cfg = load(name)
    assert cfg.test_dataloader == cfg.val_dataloader
    for loader, split in zip((cfg.train_dataloader, cfg.val_dataloader), splits, strict=True):
        loader.dataset.metainfo = dict(classes=("dark", "light"))
        with DefaultScope.overwrite_default_scope("mmpretrain"):
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


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_classes_of_cifar10_are_those_of_the_archives(test_data, split):
    cfg = load("cifar10/half_resnet50_cifar10")
    file = test_data / "tiny" / f"cifar10_tiny_{split}.npz"
    assert tuple(cfg.train_dataloader.dataset.metainfo.classes) == read_classes(file)
