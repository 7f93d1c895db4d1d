"""What the options of a training change in a config: accumulation, learning rate, precision."""

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from halvit_mm.engine import mixed_precision, training
from halvit_mm.engine.mixed_precision import set_mixed_precision
from halvit_mm.engine.training import (
    average_after_updates,
    scale_learning_rate,
    set_accumulation,
    set_checkpoint_hooks,
    set_checkpoint_interval,
)
from halvit_mm.errors import UserError

# Accumulated gradients


def config(counts: int, checkpoint: dict, *hooks: dict) -> Config:
    return Config(
        dict(
            optim_wrapper=dict(accumulative_counts=counts),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", **checkpoint)),
            custom_hooks=list(hooks),
        )
    )


@pytest.mark.parametrize(("interval", "counts", "expected"), [(10, 4, 12), (12, 4, 12), (1, 8, 8)])
def test_checkpoints_by_iterations_come_after_an_update(interval, counts, expected):
    cfg = config(
        counts,
        dict(by_epoch=False, interval=interval),
        dict(type="MidEpochCheckpointHook", interval=interval),
    )
    notes = set_accumulation(cfg)
    assert cfg.default_hooks.checkpoint.interval == expected
    assert cfg.custom_hooks[0].interval == expected
    assert len(notes) == (2 if interval != expected else 0)
    assert all(f"every {expected} iterations instead of {interval}" in note for note in notes)


def test_checkpoints_by_epochs_stay():
    cfg = config(4, dict(interval=3))
    assert set_accumulation(cfg) == []
    assert cfg.default_hooks.checkpoint.interval == 3
    never = config(4, dict(by_epoch=False, interval=-1))
    set_accumulation(never)
    assert never.default_hooks.checkpoint.interval == -1


@pytest.mark.parametrize(
    ("counts", "hook", "moves"),
    [
        (1, {}, [0, 1, 2, 3, 4, 5, 6]),
        (2, {}, [0, 1, 3, 5, 6]),
        (3, {}, [0, 2, 5, 6]),
        (3, dict(interval=1), [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_averages_move_with_each_update(tmp_path, counts, hook, moves):
    """With the last one too, which comes early where batches are left over."""
    moved = []

    class Average(ExponentialMovingAverage):
        def update_parameters(self, model: nn.Module) -> None:
            moved.append(runner.iter)
            super().update_parameters(model)

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, inputs: torch.Tensor, mode: str) -> dict:
            return dict(loss=(self.weight * inputs.float()).sum())

    cfg = dict(
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(1))] * 7,
            batch_size=1,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1.0), accumulative_counts=counts),
    )
    ema = EMAHook(ema_type=Average, momentum=0.5, **hook)
    runner = Runner(
        Model(), custom_hooks=[ema], experiment_name=tmp_path.name, cfg=Config(cfg), **cfg
    )
    average_after_updates(runner)
    runner.train()
    assert moved == moves
    if counts == 3 and not hook:
        # Weights 1, after updates 0, -1 and -2; the average starts from 1.
        assert ema.ema_model.module.weight.item() == ((1 + 0) / 2 - 1) / 2 / 2 - 2 / 2


def test_the_interval_of_an_option_replaces_the_configs():
    cfg = config(1, {}, dict(type="EMAHook"), dict(type="MidEpochCheckpointHook", interval=9))
    set_checkpoint_interval(cfg, 50)
    assert cfg.custom_hooks == [
        dict(type="EMAHook"),
        dict(type="MidEpochCheckpointHook", interval=50),
    ]
    with pytest.raises(UserError, match="--checkpoint-interval 0: give a number of iterations"):
        set_checkpoint_interval(cfg, 0)


def test_every_checkpoint_hook_is_the_safe_one():
    cfg = config(1, dict(interval=3), dict(type="mmengine.CheckpointHook", by_epoch=False))
    set_checkpoint_hooks(cfg)
    assert cfg.default_hooks.checkpoint == dict(type="SafeCheckpointHook", interval=3)
    assert cfg.custom_hooks == [dict(type="SafeCheckpointHook", by_epoch=False)]
    unset, none = Config(dict()), Config(dict(default_hooks=dict(checkpoint=None)))
    set_checkpoint_hooks(unset)
    set_checkpoint_hooks(none)
    assert unset.default_hooks == dict(checkpoint=dict(type="SafeCheckpointHook"))
    assert none.default_hooks == dict(checkpoint=None)


@pytest.mark.parametrize(
    ("processes", "batch", "counts", "lr"),
    [(1, 64, 1, 0.25), (1, 64, 4, 1.0), (8, 64, 4, 8.0), (2, 32, 2, 0.5)],
)
def test_accumulated_batches_count_in_the_learning_rate(
    tmp_path, monkeypatch, processes, batch, counts, lr
):
    """mmengine's own scaling, of lr 1 for 256 images an update."""
    lines = []
    monkeypatch.setattr(
        MMLogger, "callHandlers", lambda self, record: lines.append(record.getMessage())
    )
    model = nn.Linear(2, 2)
    loader = dict(batch_size=batch, dataset=[0], sampler=dict(type="DefaultSampler"))
    wrapper = dict(optimizer=dict(type="SGD", lr=1.0), accumulative_counts=counts)
    runner = Runner(
        model=model,
        work_dir=str(tmp_path),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=wrapper,
        auto_scale_lr=dict(enable=True, base_batch_size=256),
        experiment_name=tmp_path.name,
        cfg=Config(dict(optim_wrapper=wrapper, train_dataloader=loader)),
    )
    runner._world_size = processes
    scale_learning_rate(runner)
    built = runner.build_optim_wrapper(wrapper)
    runner.scale_lr(built, runner.auto_scale_lr)
    assert built.get_lr()["lr"] == [lr]
    said = [line for line in lines if line.startswith("auto_scale_lr: ")]
    images = processes * batch * counts
    assert len(said) == (counts > 1)
    assert all(f"= {images} images, the learning rate belongs to 256" in line for line in said)


# Mixed precision


def wrapper(**options) -> Config:
    return Config(dict(optim_wrapper=dict(optimizer=dict(type="SGD", lr=1.0), **options)))


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        ({}, None, {}),
        ({}, "bfloat16", dict(type="BFloat16OptimWrapper")),
        ({}, "float16", dict(type="AmpOptimWrapper", dtype="float16", loss_scale="dynamic")),
        (dict(type="AmpOptimWrapper", dtype="bfloat16"), None, dict(type="BFloat16OptimWrapper")),
        (
            dict(type=AmpOptimWrapper, dtype="bfloat16", loss_scale=512.0),
            None,
            dict(type="BFloat16OptimWrapper"),
        ),
        (
            dict(type="AmpOptimWrapper", loss_scale=512.0),
            None,
            dict(type="AmpOptimWrapper", dtype="float16", loss_scale=512.0),
        ),
        (
            dict(type="AmpOptimWrapper", dtype="bfloat16"),
            "float16",
            dict(type="AmpOptimWrapper", dtype="float16", loss_scale="dynamic"),
        ),
    ],
)
def test_precision_comes_from_the_option_or_the_config(monkeypatch, given, dtype, expected):
    monkeypatch.setattr(mixed_precision, "get_device", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    cfg = wrapper(**given)
    set_mixed_precision(cfg, dtype)
    assert cfg.optim_wrapper == dict(optimizer=dict(type="SGD", lr=1.0), **expected)


@pytest.mark.parametrize(
    ("device", "options", "dtype", "reason"),
    [
        ("cpu", {}, "float16", "--amp float16 needs a GPU and there is none: take --amp bfloat16"),
        (
            "cpu",
            dict(type="AmpOptimWrapper"),
            None,
            r"optim_wrapper\.dtype=float16 needs a GPU and there is none",
        ),
        ("cuda", {}, "bfloat16", "--amp bfloat16: Tesla T4 has no bfloat16"),
        (
            "cuda",
            dict(type="AmpOptimWrapper", dtype="float8"),
            None,
            r"optim_wrapper\.dtype=float8: mixed precision is in float16 or bfloat16",
        ),
    ],
)
def test_a_precision_that_the_device_lacks(monkeypatch, device, options, dtype, reason):
    monkeypatch.setattr(mixed_precision, "get_device", lambda: device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    with pytest.raises(UserError, match=reason):
        set_mixed_precision(wrapper(**options), dtype)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("dtype", mixed_precision.DTYPES)
def test_precision_on_a_gpu(dtype):
    cfg = wrapper()
    set_mixed_precision(cfg, dtype)
    model = nn.Linear(8, 8).cuda()
    built = build_optim_wrapper(model, cfg.optim_wrapper)
    with built.optim_context(model):
        out = model(torch.ones(4, 8, device="cuda"))
    assert out.dtype == getattr(torch, dtype)
    built.backward(out.float().square().mean())
    assert model.weight.grad.dtype == torch.float32


def test_types_are_known_by_name_scope_and_class():
    assert training._is(dict(type="EMAHook"), "EMAHook")
    assert training._is(dict(type="mmengine.EMAHook"), "EMAHook")
    assert training._is(dict(type=AmpOptimWrapper), "AmpOptimWrapper")
    assert not training._is(dict(type="OtherEMAHook"), "EMAHook")
    assert not training._is(None, "EMAHook")
