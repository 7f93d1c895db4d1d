"""Trainings of small models by one process or by two, in 64 bits and by mmengine's own runner.

As a script it is one of two processes: ``scale_out.py FOLDER RANK CASE…`` runs some of ``CASES``
and leaves what came of them in ``FOLDER/rank<RANK>.pt``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import DATASETS, HOOKS, MODELS, RUNNERS
from mmengine.runner import Runner
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import halvit_mm  # noqa: F401  registers the backbones
from halvit_mm.engine.processes import set_up_processes, tear_down_processes

Weights = dict[str, Tensor]

IMAGES, BATCH, EPOCHS, SIDE = 8, 4, 2, 32

_VIT = dict(img_size=SIDE, patch_size=8, with_cls_token=False, out_type="featmap")
_CNN = dict(base_channels=4, depth=50, cifar_stem=True)
#: A small backbone of each family.
BACKBONES: dict[str, dict[str, Any]] = {
    "HaLViT": dict(type="HaLViT", arch=dict(dim=8, depth=2, num_heads=2), init_std=0.2, **_VIT),
    "MiniDeiT": dict(type="MiniDeiT", arch=dict(dim=8, depth=4, num_heads=2), **_VIT),
    "MiniSwin": dict(
        type="MiniSwin",
        arch=dict(dim=4, depths=(2, 2, 4, 2), num_heads=(1, 1, 2, 2)),
        share=(2, 2, 4, 2),
        window_size=2,
    ),
    "HalfResNet": dict(type="HalfResNet", **_CNN),
    "HalfResNeXt": dict(type="HalfResNeXt", **_CNN | dict(groups=2, base_width=64)),
}
CNNS = ("HalfResNet", "HalfResNeXt")

FEATURES: dict[str, dict[str, Any]] = {
    "plain": dict(ema=True),
    "checkpointing": dict(with_cp=True),
    "accumulation": dict(counts=2, ema=True),
    "all": dict(with_cp=True, counts=2, ema=True),
}
#: Options of :func:`train` by a name. A BatchNorm takes its statistics from one process's images,
#: so that there is nothing to compare, unless they are fixed (as in detectors) or synchronised.
CASES: dict[str, dict[str, Any]] = {
    f"{family} {feature}": dict(family=family, norm_eval=family in CNNS, **options)
    for family in BACKBONES
    for feature, options in FEATURES.items()
} | {
    f"{family} sync_bn {feature}": dict(family=family, sync_bn=True, **FEATURES[feature])
    for family in CNNS
    for feature in ("plain", "all")
}
#: With the weights divided among the processes (FSDP).
SHARDED: dict[str, dict[str, Any]] = {
    f"{family} sharded {feature}": dict(
        family=family, sharded=True, norm_eval=family in CNNS, **options
    )
    for family in BACKBONES
    for feature, options in (("plain", {}), ("all", dict(with_cp=True, counts=2)))
} | {"HaLViT sharded clipped": dict(family="HaLViT", sharded=True, clip=True)}
#: Updates that keep differences of gradients as they are.
PLAIN_UPDATES = dict(optimizer=dict(type="SGD", lr=0.02, momentum=0.9))
#: Updates by a parameter's shape, as in the configs.
USUAL_UPDATES = dict(
    paramwise_cfg=dict(flat_decay_mult=0.0),
    optimizer=dict(type="AdamW", lr=0.01, weight_decay=1.0, eps=1e-3),
)


@DATASETS.register_module()
class NoiseImages:
    """Images of noise and their numbers."""

    metainfo: ClassVar[dict] = {}

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, SIDE, SIDE, generator=generator, dtype=torch.float64)
        return dict(inputs=image.to(torch.get_default_dtype()))


@MODELS.register_module()
class WaveTask(BaseModel):
    """A backbone whose every output is to look like a wave, whatever its height."""

    def __init__(self, *, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs: Tensor, mode: str) -> dict[str, Tensor]:
        similar = []
        for out in self.backbone(inputs):
            wave = torch.arange(out[0].numel(), dtype=out.dtype).sin()
            similar.append(F.cosine_similarity(out.flatten(1), wave, dim=1).mean())
        return dict(loss=-sum(similar))


@HOOKS.register_module()
class RecordUpdatesHook(Hook):
    """Keeps the gradients of each update, and the averages after each batch."""

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        self.gradients: list[Weights] = []
        self.averages: list[Weights] = []
        self.without: set[str] = set()
        model, whole = runner.model, nullcontext
        if isinstance(model, FullyShardedDataParallel):
            whole = partial(model.summon_full_params, model, with_grads=True)
        elif is_model_wrapper(model):
            model = model.module

        def record(*_) -> None:
            with whole():
                named = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
                self.without |= {name for name, gradient in named.items() if gradient is None}
                self.gradients.append({n: g.clone() for n, g in named.items() if g is not None})

        runner.optim_wrapper.optimizer.register_step_pre_hook(record)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                self.averages.append(copies(hook.ema_model.module))


def copies(model: nn.Module) -> Weights:
    """Copies of weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def train(
    folder: Path,
    *,
    family: str,
    launcher: str = "none",
    with_cp: bool = False,
    counts: int = 1,
    ema: bool = False,
    norm_eval: bool = False,
    sync_bn: bool = False,
    sharded: bool = False,
    clip: bool = False,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Trains for four batches of four images, however many processes share them.

    With ``clip`` it is in 32 bits, as FSDP has no other norms of gradients.

    Returns:
        ``gradients`` of each update, ``weights`` and buffers in the end, ``averages`` after each
        batch, the names of parameters ``without`` a gradient, and those of each of FSDP's
        ``units``.
    """
    backbone = {**BACKBONES[family], "with_cp": with_cp}
    if family in CNNS:
        backbone["norm_eval"] = norm_eval
    processes = 1 if launcher == "none" else distributed.get_world_size()
    cfg = Config(
        dict(
            default_scope="mmengine",
            experiment_name=folder.name,
            work_dir=str(folder),
            model=dict(type="WaveTask", backbone=backbone),
            train_dataloader=dict(
                batch_size=BATCH // processes,
                num_workers=0,
                sampler=dict(type="DefaultSampler", shuffle=False),
                collate_fn=dict(type="default_collate"),
                dataset=dict(type="NoiseImages"),
            ),
            train_cfg=dict(type="ResumableEpochTrainLoop", max_epochs=EPOCHS),
            optim_wrapper=dict(
                USUAL_UPDATES if sharded else PLAIN_UPDATES, accumulative_counts=counts
            ),
            default_hooks=dict(
                checkpoint=dict(type="SafeCheckpointHook", interval=1) if sharded else None,
                logger=dict(type="LoggerHook", interval=1000),
            ),
            custom_hooks=[dict(type="RecordUpdatesHook"), dict(type="CheckpointGuardHook")],
            resume=resume is not None,
            load_from=None if resume is None else str(resume),
            randomness=dict(seed=0),
            log_level="ERROR",
        )
    )
    if clip:
        cfg.optim_wrapper.clip_grad = dict(max_norm=0.01)  # less than the gradients have
        torch.set_default_dtype(torch.float32)
    if ema:
        options = dict(momentum=0.1, update_buffers=True)
        cfg.custom_hooks.append(dict(type="EMAHook", interval=counts, **options))
    if sync_bn:
        cfg.sync_bn = "torch"
    if sharded and processes > 1:
        cfg.runner_type = "FlexibleRunner"
        cfg.strategy = dict(type="SharedWeightFSDPStrategy")
    set_up_processes(cfg, launcher)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    runner.train()
    units = [
        sorted(unit._handle.flat_param._fqns)
        for unit in FullyShardedDataParallel.fsdp_modules(runner.model)
    ]
    tear_down_processes(runner)
    (record,) = [hook for hook in runner.hooks if isinstance(hook, RecordUpdatesHook)]
    return dict(
        gradients=record.gradients,
        averages=record.averages,
        weights=torch.load(folder / f"epoch_{EPOCHS}.pth", weights_only=False)["state_dict"]
        if sharded
        else copies(runner.model),
        without=record.without,
        units=units,
    )


@contextmanager
def sync_batch_norm_on_cpu() -> Iterator[None]:
    """Lets torch's SyncBatchNorm run without a GPU.

    Its communication and its order of steps are torch's own; the five sums over one process's
    images, for which torch has CUDA kernels only, are written out here.
    """
    library = torch.library.Library("aten", "IMPL")
    for name in ("stats", "gather_stats_with_counts", "elemt", "backward_reduce", "backward_elemt"):
        library.impl(f"batch_norm_{name}", globals()[f"_{name}"], "CPU")
    forward = nn.SyncBatchNorm.forward

    def on_cpu(layer: nn.SyncBatchNorm, x: Tensor) -> Tensor:
        with patch.object(torch._C, "_get_privateuse1_backend_name", lambda: "cpu"):
            return forward(layer, x)  # which asks for "cuda" or this device

    # The other place that asks for a GPU, and does nothing else.
    no_check = patch.object(DistributedDataParallel, "_passing_sync_batchnorm_handle")
    with no_check, patch.object(nn.SyncBatchNorm, "forward", on_cpu):
        yield
    library._destroy()


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]


def _sum(x: Tensor) -> Tensor:
    return x.sum((0, 2, 3))


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.mean((0, 2, 3)), (x.var((0, 2, 3), unbiased=False) + eps).rsqrt()


def _gather_stats_with_counts(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    shares = (counts / counts.sum())[:, None]
    overall = (shares * mean).sum(0)
    var = (shares * (invstd**-2 - eps + (mean - overall) ** 2)).sum(0)
    if running_mean is not None:
        running_mean.lerp_(overall, momentum)
        running_var.lerp_(var * counts.sum() / (counts.sum() - 1), momentum)
    return overall, (var + eps).rsqrt()


def _elemt(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    return (x - _channels(mean)) * _channels(invstd * weight) + _channels(bias)


def _backward_reduce(
    dy: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, *needed: bool
) -> tuple[Tensor, ...]:
    products = _sum(dy * (x - _channels(mean)))
    return _sum(dy), products, products * invstd, _sum(dy)


def _backward_elemt(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    sum_dy: Tensor,
    products: Tensor,
    counts: Tensor,
) -> Tensor:
    along = _channels(invstd**2 * products / counts.sum()) * (x - _channels(mean))
    return (dy - _channels(sum_dy / counts.sum()) - along) * _channels(invstd * weight)


def main(folder: Path, rank: int, cases: list[str]) -> None:
    torch.set_num_threads(1)
    results = {}
    # mmengine formats the config several times a run, which takes longer than these runs do.
    with (
        patch("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True)),
        sync_batch_norm_on_cpu(),
    ):
        for number, name in enumerate(cases):
            work = folder / f"run{number}"
            options = dict(launcher="pytorch", **(CASES | SHARDED)[name])
            torch.set_default_dtype(torch.float64)
            meet(folder / f"meeting{number}", rank)
            results[name] = train(work, **options)
            if name in SHARDED:
                meet(folder / f"meeting{number}.again", rank)
                again = work.with_name(f"{work.name}_resumed")
                resumed = train(again, resume=work / "epoch_1.pth", **options)
                results[name]["resumed"] = resumed["weights"]
    torch.save(results, folder / f"rank{rank}.pt")


def meet(file: Path, rank: int) -> None:
    distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
