"""A training step of the whole stack against one by hand, in which no weight serves twice.

The hand-written step knows nothing of tied weights: its model has a copy for each use. The copies'
gradients are summed into one gradient for each weight, which then takes one step of the optimiser.
A training of mmengine's runner, by the optimiser of a config for ImageNet, must end at the same
weights in 64 bits: with an average of the weights, activation checkpointing and accumulation of
gradients, with each alone and with all together.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import functional as F

from halvit_mm.engine import BFloat16OptimWrapper, launch
from halvit_mm.engine.config_errors import load_config
from halvit_mm.layers.bottleneck import TiedBottleneck
from halvit_mm.layers.tied import TiedFFN

Weights = dict[str, Tensor]

IMAGES, BATCH, EPOCHS, CLASSES, SIDE = 6, 2, 2, 3, 16
BATCHES = EPOCHS * IMAGES // BATCH
MOMENTUM = 0.1  # of the averages
#: A step too many moves weights by 1e-4 and more, rounding in 64 bits by less than 1e-12.
TOLERANCE = 1e-10


@pytest.fixture
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@DATASETS.register_module()
class RandomImages:
    """A few images of noise, as a model takes them."""

    metainfo: ClassVar[dict] = dict(classes=tuple("abc"))

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict:
        from mmpretrain.structures import DataSample

        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, SIDE, SIDE, generator=generator)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % CLASSES))


@MODELS.register_module()
class PlainPreprocessor(BaseDataPreprocessor):
    """Takes images as they are; mmpretrain's makes them float32."""

    def __init__(self, *, batch_augments: None = None) -> None:
        super().__init__()


@HOOKS.register_module()
class RecordWeightsHook(Hook):
    """Keeps the weights at the start and after each batch, and what the optimiser saw."""

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        self.weights = [_copied(runner.model)]
        self.averages = []
        self.gradients = []

        def record(optimizer: torch.optim.Optimizer, *_) -> None:
            self.gradients.append(
                {name: p.grad.clone() for name, p in runner.model.named_parameters()}
            )

        runner.optim_wrapper.optimizer.register_step_pre_hook(record)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        self.weights.append(_copied(runner.model))
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                self.averages.append(_copied(hook.ema_model.module))


def _copied(model: nn.Module) -> Weights:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# The trainings


def vit_config(root: Path) -> Config:
    cfg = load_config(root / "configs/imagenet/halvit_tiny_imagenet.py")
    cfg.model.backbone.update(
        arch=dict(dim=8, depth=2, num_heads=2), img_size=SIDE, patch_size=8, init_std=0.2
    )
    cfg.model.head.in_channels = 8
    cfg.optim_wrapper.clip_grad.max_norm = 0.1  # less than the gradients have
    return _small(cfg)


def cnn_config(root: Path) -> Config:
    cfg = load_config(root / "configs/imagenet/half_resnet50_imagenet_paper.py")
    cfg.model.backbone.update(base_channels=4, cifar_stem=True)
    cfg.model.head.in_channels = 128
    return _small(cfg)


def _small(cfg: Config) -> Config:
    cfg.model.train_cfg = None  # mixes images at random
    cfg.model.head.update(num_classes=CLASSES, topk=(1,))
    cfg.data_preprocessor = dict(type="PlainPreprocessor")
    cfg.train_dataloader = dict(
        batch_size=BATCH,
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(type="RandomImages"),
    )
    cfg.merge_from_dict({"train_cfg.max_epochs": EPOCHS, "default_hooks.logger.interval": 50})
    for name in ("val_cfg", "val_dataloader", "val_evaluator", "param_scheduler"):
        cfg[name] = None
    cfg.custom_hooks = [dict(type="RecordWeightsHook")]
    cfg.randomness = dict(seed=0)
    return cfg


FEATURES = {
    "averaging": dict(ema=True),
    "checkpointing": dict(with_cp=True),
    "accumulation": dict(counts=2),
    "all": dict(ema=True, with_cp=True, counts=2),
}


def train(
    cfg: Config, work: Path, *, ema: bool = False, with_cp: bool = False, counts: int = 1
) -> tuple[Runner, RecordWeightsHook]:
    cfg.model.backbone.with_cp = with_cp
    cfg.optim_wrapper.accumulative_counts = counts
    if ema:
        cfg.custom_hooks.append(dict(type="EMAHook", momentum=MOMENTUM))
    cfg.experiment_name = f"{work.parent.name}_{work.name}"  # of this run alone
    runner = launch.train(cfg, work_dir=str(work))
    (record,) = [hook for hook in runner.hooks if isinstance(hook, RecordWeightsHook)]
    return runner, record


# The same by hand


class UntiedViT:
    """A dense twin, and its weights and gradients from and to those of the tied model."""

    def __init__(self, cfg: Config) -> None:
        cfg.model.backbone.tied = False
        self.model = build(cfg)

    def expand(self, weights: Weights) -> Weights:
        dense = {}
        for name, w in weights.items():
            if name.endswith("attn.weight"):
                prefix = name.removesuffix("weight")
                w_q, w_kv = w.chunk(2)
                dense[f"{prefix}qkv.weight"] = torch.cat((w_q, w_kv, w_kv.t()))
                dense[f"{prefix}proj.weight"] = w_q.t()
            elif name.endswith("ffn.weight"):
                prefix = name.removesuffix("weight")
                dense[f"{prefix}fc1.weight"] = w
                dense[f"{prefix}fc2.weight"] = w.t()
            else:
                dense[_dense_bias(name)] = w
        return dense

    def contract(self, gradients: Weights, names: list[str]) -> Weights:
        tied = {}
        for name in names:
            prefix = name.removesuffix("weight")
            if name.endswith("attn.weight"):
                g_q, g_k, g_v = gradients[f"{prefix}qkv.weight"].chunk(3)
                tied[name] = torch.cat((g_q + gradients[f"{prefix}proj.weight"].t(), g_k + g_v.t()))
            elif name.endswith("ffn.weight"):
                tied[name] = gradients[f"{prefix}fc1.weight"] + gradients[f"{prefix}fc2.weight"].t()
            else:
                tied[name] = gradients[_dense_bias(name)]
        return tied


def _dense_bias(name: str) -> str:
    if ".ffn." in name:
        return name.replace("bias_in", "fc1.bias").replace("bias_out", "fc2.bias")
    return name.replace("bias_qkv", "qkv.bias").replace("bias_out", "proj.bias")


class UntiedCNN:
    """A half-weight ResNet in which each block has two convolutions of its own for W and Wᵀ."""

    def __init__(self, cfg: Config) -> None:
        self.model = build(cfg)
        self.copies: dict[str, list[str]] = {}
        for name, block in self.model.named_modules():
            if isinstance(block, TiedBottleneck):
                stage = name.split(".blocks.")[0]
                shape = self.model.get_parameter(f"{stage}.weight").shape
                block.narrow = nn.Parameter(torch.empty(shape))
                block.widen = nn.Parameter(torch.empty(shape).transpose(0, 1))
                block.forward = _untied_bottleneck(block)
                self.copies.setdefault(f"{stage}.weight", []).append(name)
        for name in self.copies:
            stage = self.model.get_submodule(name.removesuffix(".weight"))
            shape = stage.weight.shape
            del stage.weight
            stage.weight = torch.full(shape, math.nan)  # no parameter, and no block's business

    def expand(self, weights: Weights) -> Weights:
        untied = {name: w for name, w in weights.items() if name not in self.copies}
        for name, blocks in self.copies.items():
            for block in blocks:
                untied[f"{block}.narrow"] = weights[name]
                untied[f"{block}.widen"] = weights[name].transpose(0, 1)
        return untied

    def contract(self, gradients: Weights, names: list[str]) -> Weights:
        return {
            name: sum(
                gradients[f"{block}.narrow"] + gradients[f"{block}.widen"].transpose(0, 1)
                for block in self.copies[name]
            )
            if name in self.copies
            else gradients[name]
            for name in names
        }


def _untied_bottleneck(block: TiedBottleneck) -> Callable[..., Tensor]:
    def forward(x: Tensor, weight: Tensor, transposed: Tensor, shortcut: Tensor) -> Tensor:
        h = F.relu(block.bn1(F.conv2d(x, block.narrow)))
        h = F.relu(block.bn2(block.conv2(h)))
        return F.relu(block.bn3(F.conv2d(h, block.widen)) + shortcut)

    return forward


def build(cfg: Config) -> nn.Module:
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build({**cfg.model, "data_preprocessor": cfg.data_preprocessor}).train()


def by_hand(
    untied: UntiedViT | UntiedCNN, weights: Weights, wrapper: dict, *, counts: int = 1
) -> tuple[list[Weights], list[Weights]]:
    """The weights and their averages after each batch."""
    update = optimizer_of(wrapper)
    max_norm = (wrapper.get("clip_grad") or {}).get("max_norm", math.inf)
    data = [RandomImages()[index] for index in range(IMAGES)]
    all_weights, all_averages, total = [], [], None
    for batch in range(BATCHES):
        expanded = untied.expand(weights)
        for name, parameter in untied.model.named_parameters():
            parameter.data.copy_(expanded[name])
        first = batch * BATCH % IMAGES
        images = torch.stack([sample["inputs"] for sample in data[first : first + BATCH]])
        labels = [sample["data_samples"] for sample in data[first : first + BATCH]]
        loss = untied.model(images, labels, mode="loss")["loss"] / counts
        names, parameters = zip(*untied.model.named_parameters(), strict=True)
        gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
        gradient = untied.contract(gradients, list(weights))
        total = gradient if total is None else {n: g + gradient[n] for n, g in total.items()}
        if (batch + 1) % counts == 0:
            norm = math.sqrt(sum(float(g.square().sum()) for g in total.values()))
            factor = min(1.0, max_norm / (norm + 1e-6))
            weights = update({n: g * factor for n, g in total.items()}, weights)
            total = None
        all_weights.append(weights)
        average = all_averages[-1] if all_averages else weights
        if (batch + 1) % counts == 0:  # the average moves with the weights
            average = {n: a + MOMENTUM * (weights[n] - a) for n, a in average.items()}
        all_averages.append(average)
    return all_weights, all_averages


def optimizer_of(wrapper: dict) -> "AdamW | SGD":
    options = {k: v for k, v in wrapper["optimizer"].items() if k not in ("type", "_scope_")}
    return {"AdamW": AdamW, "SGD": SGD}[wrapper["optimizer"]["type"]](**options)


class AdamW:
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2."""

    def __init__(
        self, *, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
    ) -> None:
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, betas, eps
        self.steps = 0

    def __call__(self, gradients: Weights, weights: Weights) -> Weights:
        if not self.steps:
            self.mean = {name: torch.zeros_like(w) for name, w in weights.items()}
            self.square = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.steps += 1
        beta1, beta2 = self.betas
        updated = {}
        for name, w in weights.items():
            g = gradients[name]
            self.mean[name] = beta1 * self.mean[name] + (1 - beta1) * g
            self.square[name] = beta2 * self.square[name] + (1 - beta2) * g**2
            mean = self.mean[name] / (1 - beta1**self.steps)
            square = self.square[name] / (1 - beta2**self.steps)
            spared = w.ndim == 1 or name.endswith(("pos_embed", "cls_token"))
            decay = 0.0 if spared else self.weight_decay
            updated[name] = w - self.lr * (mean / (square.sqrt() + self.eps) + decay * w)
        return updated


class SGD:
    """Gradient descent with momentum and decay of all weights."""

    def __init__(self, *, lr: float, momentum: float, weight_decay: float) -> None:
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.velocity: Weights = {}

    def __call__(self, gradients: Weights, weights: Weights) -> Weights:
        for name, w in weights.items():
            g = gradients[name] + self.weight_decay * w
            self.velocity[name] = self.momentum * self.velocity.get(name, 0) + g
        return {name: w - self.lr * self.velocity[name] for name, w in weights.items()}


# The comparison


def largest_difference(given: list[Weights], expected: list[Weights]) -> float:
    assert len(given) == len(expected) == BATCHES
    assert all(g.keys() == e.keys() for g, e in zip(given, expected, strict=True))
    return max(
        float((g[name] - e[name]).abs().max())
        for g, e in zip(given, expected, strict=True)
        for name in e
    )


CASES = [
    *((vit_config, UntiedViT, feature) for feature in FEATURES),
    *((cnn_config, UntiedCNN, feature) for feature in ("accumulation", "all")),
]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("config", "untied", "feature"), CASES)
def test_each_weight_takes_exactly_one_step(tmp_path, root, config, untied, feature):
    options = FEATURES[feature]
    runner, record = train(config(root), tmp_path, **options)
    cfg = config(root)
    reference = untied(cfg)
    weights, averages = by_hand(
        reference, record.weights[0], cfg.optim_wrapper, counts=options.get("counts", 1)
    )
    moved = largest_difference(record.weights[1:], [record.weights[0]] * BATCHES)
    assert moved > 1e-3
    assert largest_difference(record.weights[1:], weights) < TOLERANCE
    if options.get("ema"):
        assert largest_difference(record.averages, averages) < TOLERANCE
    # BatchNorm's statistics move once, too.
    statistics = dict(runner.model.named_buffers())
    for name, value in reference.model.named_buffers():
        torch.testing.assert_close(statistics[name], value, rtol=0, atol=TOLERANCE)
    check_that_all_hold_each_weight_once(runner, tmp_path)


def check_that_all_hold_each_weight_once(runner: Runner, work: Path) -> None:
    parameters = dict(runner.model.named_parameters(remove_duplicate=False))
    shapes = sorted(tuple(p.shape) for p in parameters.values())
    assert len({p.data_ptr() for p in parameters.values()}) == len(parameters)
    groups = runner.optim_wrapper.optimizer.param_groups
    held = [p for group in groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, parameters.values()))
    assert len(runner.optim_wrapper.optimizer.state) == len(parameters)

    checkpoint = torch.load(work / f"epoch_{EPOCHS}.pth", weights_only=False)
    buffers = {name for name, _ in runner.model.named_buffers()}
    saved = [checkpoint["state_dict"]]
    if "ema_state_dict" in checkpoint:
        average = checkpoint["ema_state_dict"]
        saved.append({k.removeprefix("module."): v for k, v in average.items() if k != "steps"})
    for weights in saved:
        learned = [value for name, value in weights.items() if name not in buffers]
        assert sorted(tuple(value.shape) for value in learned) == shapes
        assert len({value.untyped_storage().data_ptr() for value in learned}) == len(shapes)
    assert len(checkpoint["optimizer"]["state"]) == len(shapes)


def _steps_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    step = OptimWrapper.step

    def twice(wrapper: OptimWrapper, **options) -> None:
        step(wrapper, **options)
        step(wrapper, **options)

    monkeypatch.setattr(OptimWrapper, "step", twice)


def _loses_the_second_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(layer: TiedFFN, x: Tensor) -> Tensor:
        hidden = layer.act(F.linear(x, layer.weight, layer.bias_in))
        return F.linear(hidden, layer.weight.t().detach(), layer.bias_out)

    monkeypatch.setattr(TiedFFN, "forward", forward)


def _averages_under_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model would be averaged whose weight has two names, by mmengine's state_dict."""
    before_run = EMAHook.before_run

    def aliased(hook: EMAHook, runner: Runner) -> None:
        before_run(hook, runner)
        names = hook.ema_model.avg_parameters
        ffn = "backbone.blocks.0.ffn"
        names[f"{ffn}.other"] = names[f"{ffn}.weight"]
        parameters = runner.model.named_parameters
        monkeypatch.setattr(
            runner.model,
            "named_parameters",
            lambda *args, **options: [
                *parameters(*args, **options),
                (f"{ffn}.other", runner.model.get_parameter(f"{ffn}.weight")),
            ],
            raising=False,
        )

    monkeypatch.setattr(EMAHook, "before_run", aliased)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    "mistake",
    [_steps_twice, _loses_the_second_use, _averages_under_two_names],
    ids=lambda mistake: mistake.__name__.strip("_").replace("_", " "),
)
def test_the_comparison_sees(tmp_path, root, monkeypatch, mistake):
    with monkeypatch.context() as patch:
        mistake(patch)
        _, record = train(vit_config(root), tmp_path, **FEATURES["all"])
    cfg = vit_config(root)
    start = {n: w for n, w in record.weights[0].items() if not n.endswith(".other")}
    weights, averages = by_hand(UntiedViT(cfg), start, cfg.optim_wrapper, counts=2)
    given = [{n: w[n] for n in start} for w in record.weights[1:]]
    averaged = [{n: w[n] for n in start} for w in record.averages]
    differences = largest_difference(given, weights), largest_difference(averaged, averages)
    assert max(differences) > 1e-6


# Mixed precision has no 64 bits to compare; what holds is said here.


def test_bfloat16_keeps_weights_gradients_and_optimiser_in_32_bits(tmp_path, root):
    """Each update is one of AdamW's by the gradient at hand, which is close to float32's."""
    cfg = vit_config(root)
    cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16")
    runner, record = train(cfg, tmp_path / "bf16", ema=True)
    assert type(runner.optim_wrapper) is BFloat16OptimWrapper
    _, exact = train(vit_config(root), tmp_path / "fp32", ema=True)

    state = runner.optim_wrapper.optimizer.state
    held = [*record.weights[-1].values(), *record.averages[-1].values()]
    held += [value for gradients in record.gradients for value in gradients.values()]
    held += [value for values in state.values() for value in values.values()]
    assert {value.dtype for value in held} == {torch.float32}
    check_that_all_hold_each_weight_once(runner, tmp_path / "bf16")

    update = optimizer_of(vit_config(root).optim_wrapper)
    assert len(record.gradients) == BATCHES
    for before, gradients, after in zip(
        record.weights, record.gradients, record.weights[1:], strict=False
    ):
        for name, expected in update(gradients, before).items():
            torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-7)
    for name, gradient in exact.gradients[0].items():
        error = (record.gradients[0][name] - gradient).norm() / gradient.norm()
        assert error < 0.1, name
    tied = "backbone.blocks.0.ffn.weight"
    assert not torch.equal(record.gradients[0][tied], exact.gradients[0][tied])
