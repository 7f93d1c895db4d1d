"""The guard against checkpoints that do not fit, and the progress of evaluations."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny_runs import detector_config
from torch import nn

from halvit_mm.analysis.weightless import build_without_weights
from halvit_mm.engine import CheckpointGuardHook
from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError


class Model(BaseModel):
    """A network of 200 weights; the loss is always the mean of its output."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.first = nn.Linear(10, width, bias=False)
        self.second = nn.Linear(width, 10, bias=False)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        out = self.second(self.first(torch.stack(inputs)))
        return dict(loss=out.mean()) if mode == "loss" else list(out)


class Wrapped(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


class Metric:
    dataset_meta = None

    def process(self, data_batch, data_samples):
        pass

    def evaluate(self, size):
        return {"size": float(size)}


def runner_of(folder, model: nn.Module, *hooks: dict, images: int = 20, **cfg) -> Runner:
    loader = dict(
        batch_size=1,
        dataset=[dict(inputs=torch.ones(10))] * images,
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    return Runner(
        model=model,
        work_dir=str(folder),
        test_dataloader=loader,
        test_cfg=dict(),
        test_evaluator=Metric(),
        custom_hooks=list(hooks),
        load_from=cfg.get("load_from"),
        experiment_name=folder.name,
        cfg=Config(cfg),
    )


GUARD = dict(type="CheckpointGuardHook")


def test_registered_in_the_root():
    assert HOOKS.get("CheckpointGuardHook") is CheckpointGuardHook


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped], ids=["bare", "tta"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_that_fits_loads(tmp_path, wrap, prefix):
    path, model = str(tmp_path / "c.pth"), Model()
    weights = {f"{prefix}{name}": value + 1 for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, path)
    before = model.first.weight.detach().clone()
    runner_of(tmp_path, wrap(model), GUARD, load_from=path).load_or_resume()
    assert torch.equal(model.first.weight, before + 1)


def test_a_checkpoint_of_another_shape_is_refused_before_anything_loads(tmp_path):
    path, model = str(tmp_path / "c.pth"), Model()
    weights = {"first.weight": torch.ones(10, 10), "second.weight": torch.ones(9, 9)}
    torch.save({"state_dict": {**weights, "third": torch.ones(1)}}, path)
    before = model.first.weight.detach().clone()
    runner = runner_of(tmp_path, model, GUARD, load_from=path)
    with pytest.raises(UserError) as caught:
        runner.load_or_resume()
    assert str(caught.value) == (
        f"{path}: the checkpoint does not fit the model, less than 95% would load; "
        "give one of the same config, or pass --allow-partial to load what fits\n"
        "  50.0% of the parameters: loaded 1 tensors, resized 0, missing 0, unexpected 1, "
        "of another shape 1\n"
        "  unexpected: third\n"
        "  of another shape (model's ≠ checkpoint's): second.weight (10, 10) ≠ (9, 9)"
    )
    assert torch.equal(model.first.weight, before)


def test_min_fraction_is_a_choice(tmp_path):
    path, model = str(tmp_path / "c.pth"), Model()
    torch.save({"state_dict": {"first.weight": torch.ones(10, 10)}}, path)
    runner_of(tmp_path, model, {**GUARD, "min_fraction": 0.5}, load_from=path).load_or_resume()
    assert torch.equal(model.first.weight, torch.ones(10, 10))


def test_bare_weights_cannot_be_resumed_from(tmp_path):
    path, model = str(tmp_path / "c.pth"), Model()
    torch.save({"state_dict": model.state_dict()}, path)
    runner = runner_of(tmp_path, model, GUARD, load_from=path, resume=True)
    with pytest.raises(UserError, match=r"c\.pth: only weights, no state of a training to resume"):
        runner.load_or_resume()


def test_a_detectors_new_head(tmp_path):
    """Boxes and features load, only the layer that tells classes apart starts anew."""
    cfg = load_config(detector_config(tmp_path / "config.py", tmp_path))
    trained = build_without_weights(cfg).to_empty(device="cpu")
    cfg.merge_from_dict({"model.bbox_head.num_classes": 3, "load_from": "c.pth"})
    model = build_without_weights(cfg).to_empty(device="cpu")
    runner = SimpleNamespace(cfg=cfg, model=model, logger=MMLogger.get_current_instance())
    checkpoint = {"state_dict": dict(trained.state_dict())}
    with pytest.raises(UserError, match=r"is for 2 classes, model\.bbox_head\.num_classes=3; give"):
        CheckpointGuardHook().after_load_checkpoint(runner, checkpoint)
    assert checkpoint["state_dict"].keys() == trained.state_dict().keys()
    CheckpointGuardHook(new_head=True).after_load_checkpoint(runner, checkpoint)
    left_out = trained.state_dict().keys() - checkpoint["state_dict"].keys()
    assert left_out == {"bbox_head.retina_cls.weight", "bbox_head.retina_cls.bias"}


def test_a_new_head_does_not_excuse_the_rest(tmp_path):
    cfg = load_config(detector_config(tmp_path / "config.py", tmp_path))
    model = build_without_weights(cfg).to_empty(device="cpu")
    runner = SimpleNamespace(cfg=cfg, model=model, logger=MMLogger.get_current_instance())
    heads = {k: v for k, v in model.state_dict().items() if k.startswith("bbox_head")}
    with pytest.raises(UserError, match="the checkpoint does not fit the model, less than 95%"):
        CheckpointGuardHook(new_head=True).after_load_checkpoint(runner, {"state_dict": heads})


def test_a_new_head_needs_classes(tmp_path):
    runner = runner_of(tmp_path, Model(), load_from="c.pth")
    with pytest.raises(UserError, match="--new-head: the config's model has no num_classes"):
        CheckpointGuardHook(new_head=True).after_load_checkpoint(runner, {"state_dict": {}})


def test_it_acts_before_the_ema_hook_loads(tmp_path):
    runner = runner_of(tmp_path, Model(), dict(type="EMAHook"), GUARD)
    names = [type(hook).__name__ for hook in runner.hooks]
    assert names.index("CheckpointGuardHook") < names.index("EMAHook")


@pytest.mark.parametrize(
    ("images", "interval", "expected"),
    [
        (20, 50, list(range(2, 21, 2))),  # LoggerHook would be silent
        (20, 10, list(range(2, 21, 2))),  # it reports 10 and 20 itself
        (3, 50, [1, 2, 3]),
    ],
)
def test_evaluations_report_each_tenth_once_with_an_eta(
    tmp_path, monkeypatch, images, interval, expected
):
    runner = runner_of(tmp_path, Model(), dict(type="EvaluationProgressHook"), images=images)
    (logger_hook,) = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
    logger_hook.interval = interval
    lines = []
    monkeypatch.setattr(
        MMLogger, "callHandlers", lambda self, record: lines.append(record.getMessage())
    )
    runner.test()
    progress = [line for line in lines if "eta:" in line]
    assert [int(line.split("/")[0].split("[")[-1]) for line in progress] == expected
