"""Norms in the log, against norms computed from the training's own tensors."""

import json
from pathlib import Path

import bad_batches  # noqa: F401  registers a wrapper
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny_runs import classifier_config, make_folders

from halvit_mm.engine import launch
from halvit_mm.engine.config_errors import load_config

TIED = [f"backbone.blocks.{i}.{part}.weight" for i in range(2) for part in ("attn", "ffn")]
DENSE = [
    f"backbone.blocks.{i}.{part}.weight"
    for i in range(2)
    for part in ("attn.qkv", "attn.proj", "ffn.fc1", "ffn.fc2")
]


@HOOKS.register_module()
class KeepGradientsHook(Hook):
    """Keeps each step's gradients and weights, as the optimiser sees them."""

    def before_train(self, runner: Runner) -> None:
        self.gradients, self.weights = [], []
        optimizer = runner.optim_wrapper.optimizer

        def keep(*args: object) -> None:
            named = dict(runner.model.named_parameters())
            self.gradients.append({name: p.grad.clone() for name, p in named.items()})
            self.weights.append({name: p.detach().clone() for name, p in named.items()})

        optimizer.register_step_pre_hook(keep)


def norm(tensors: dict, names: list[str] | None = None) -> float:
    chosen = [tensors[name] for name in names or tensors]
    return float(torch.cat([one.flatten().double() for one in chosen]).norm())


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("norms")
    return classifier_config(folder / "tiny.py", make_folders(folder / "data"), dim=16)


def train(config: Path, work_dir: Path, **options):
    cfg = load_config(config)
    cfg.merge_from_dict(
        {
            "train_cfg.max_epochs": 2,
            "val_dataloader": None,
            "val_evaluator": None,
            "val_cfg": None,
            "default_hooks.logger.interval": 1,
            **options,
        }
    )
    cfg.custom_hooks = [dict(type="KeepGradientsHook"), dict(type="NormsHook", interval=1)]
    runner = launch.train(cfg, work_dir=str(work_dir))
    (kept,) = (hook for hook in runner.hooks if isinstance(hook, KeepGradientsHook))
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return kept, [line for line in lines if "loss" in line]


@pytest.mark.parametrize(("tied", "layers"), [(True, TIED), (False, DENSE)])
def test_norms_are_those_of_the_training(config, tmp_path, tied, layers):
    kept, lines = train(config, tmp_path, **{"model.backbone.tied": tied})
    assert len(lines) == len(kept.gradients) == 4
    for line, gradients, weights in zip(lines, kept.gradients, kept.weights, strict=True):
        assert line["gradient_norm"] == pytest.approx(norm(gradients), rel=1e-5)
        assert line["layers_gradient_norm"] == pytest.approx(norm(gradients, layers), rel=1e-5)
        assert line["weight_norm"] == pytest.approx(norm(weights), rel=1e-5)
        assert line["layers_weight_norm"] == pytest.approx(norm(weights, layers), rel=1e-5)


def test_gradients_are_those_before_clipping(config, tmp_path):
    kept, lines = train(config, tmp_path, **{"optim_wrapper.clip_grad": dict(max_norm=1e-3)})
    for line, gradients in zip(lines, kept.gradients, strict=True):
        assert norm(gradients) == pytest.approx(1e-3, rel=1e-2)
        assert line["gradient_norm"] > 1e-2
    # mmengine gives means over several lines.
    assert lines[0]["gradient_norm"] == pytest.approx(lines[0]["grad_norm"], rel=1e-5)


def test_a_scalers_factor_is_taken_out(config, tmp_path):
    amp = {"optim_wrapper.type": "CpuAmpOptimWrapper", "optim_wrapper.init_scale": 1024.0}
    kept, lines = train(config, tmp_path, **amp)
    for line, gradients, weights in zip(lines, kept.gradients, kept.weights, strict=True):
        assert line["gradient_norm"] == pytest.approx(norm(gradients), rel=1e-4)
        assert line["weight_norm"] == pytest.approx(norm(weights), rel=1e-5)
