"""NaN and infinite numbers in real trainings of a tiny classifier: ten updates of four images."""

import re
from pathlib import Path
from typing import Any

import bad_batches  # noqa: F401  registers its hooks
import pytest
import torch
from tiny_runs import classifier_config, make_folders
from torch import Tensor

from halvit_mm.engine import launch
from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError

WEIGHT = "backbone.blocks.0.ffn.weight"
#: A small convolutional network with running statistics.
NORMED = dict(
    type="ResNet_CIFAR", depth=18, base_channels=8, stem_channels=8, num_stages=1,
    strides=(1,), dilations=(1,), out_indices=(0,),
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bad_numbers")
    return classifier_config(folder / "tiny.py", make_folders(folder / "data"), dim=16)


def train(config: Path, work_dir: Path, *hooks: dict, action: str | None = None, **options: Any):
    """Five epochs of two batches, a checkpoint after each; the same numbers each time."""
    cfg = load_config(config)
    cfg.merge_from_dict(
        {
            "train_cfg.max_epochs": 5,
            "val_dataloader": None,
            "val_evaluator": None,
            "val_cfg": None,
            "default_hooks.checkpoint.interval": 1,
            "default_hooks.checkpoint.max_keep_ckpts": 1,
            "randomness": dict(seed=0),
            **options,
        }
    )
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), *hooks]
    return launch.train(cfg, work_dir=str(work_dir), on_bad_numbers=action)


def spoil(kind: str, *iterations: int, **options: Any) -> dict:
    return dict(type=kind, iterations=list(iterations), **options)


def saved(work_dir: Path, key: str = "state_dict") -> dict[str, Tensor]:
    (file,) = work_dir.glob("epoch_*.pth")
    return torch.load(file, weights_only=False)[key]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def finite(weights: dict[str, Tensor]) -> bool:
    return all(bool(one.isfinite().all()) for one in weights.values())


def logged(work_dir: Path) -> str:
    return "".join(file.read_text() for file in work_dir.glob("*/*.log"))


def images(text: str) -> list[str]:
    return re.findall(r"(?:dark|light)_\d\.png", text)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (spoil("BadImageHook", 5), r"loss is nan and \d+ of \d+ gradients are not finite \("),
        (spoil("BadLossHook", 5, value="inf"), r"loss is inf, for "),
        (
            spoil("BadGradientHook", 5, parameter=WEIGHT),
            rf": 1 of \d+ gradients are not finite \({re.escape(WEIGHT)}\), for ",
        ),
        (spoil("BadGradientHook", 5, parameter=WEIGHT, value="inf"), "1 of .* not finite"),
    ],
    ids=["image", "loss", "gradient", "infinite gradient"],
)
def test_training_stops_before_the_weights_are_spoilt(config, tmp_path, fault, says):
    with pytest.raises(UserError, match=says) as stopped:
        train(config, tmp_path, fault)
    text = str(stopped.value)
    assert text.startswith("bad numbers in iteration 5:")
    assert "\n" not in text
    assert len(images(text)) == 4
    assert f"{tmp_path / 'epoch_2.pth'}" in text  # two batches an epoch
    assert "--on-bad-numbers skip" in text
    assert [file.name for file in tmp_path.glob("epoch_*.pth")] == ["epoch_2.pth"]
    assert finite(saved(tmp_path))


def test_the_images_named_are_those_of_the_batch(config, tmp_path):
    from recording import batches_of

    record = dict(type="RecordImagesHook", file=str(tmp_path / "images"))
    with pytest.raises(UserError) as stopped:
        train(config, tmp_path / "run", record, spoil("BadImageHook", 5))
    last = batches_of(tmp_path / "images")[-1]
    assert [f"{name}.png" for name in last[4:]] == images(str(stopped.value))


@pytest.mark.parametrize("kind", ["BadImageHook", "BadLossHook"])
def test_skipping_is_training_without_that_update(config, tmp_path, kind):
    ema = dict(type="EMAHook", momentum=0.3)
    runner = train(config, tmp_path / "skip", ema, spoil(kind, 3, 6), action="skip")
    train(config, tmp_path / "left_out", ema, spoil("NoStepHook", 3, 6))
    for key in ("state_dict", "ema_state_dict"):
        skipped, left_out = saved(tmp_path / "skip", key), saved(tmp_path / "left_out", key)
        assert finite(skipped)
        assert same(skipped, left_out)
    text = logged(tmp_path / "skip")
    assert text.count("this update is left out") == 2
    assert "bad numbers: 2 updates were left out, in iterations 3, 6" in text
    assert runner.iter == 10


def test_a_skipped_update_changes_what_comes_of_it(config, tmp_path):
    """Else the test above would compare nothing with nothing."""
    train(config, tmp_path / "skip", spoil("BadImageHook", 3, 6), action="skip")
    train(config, tmp_path / "whole")
    assert not same(saved(tmp_path / "skip"), saved(tmp_path / "whole"))


def test_accumulated_gradients_go_with_the_bad_one(config, tmp_path):
    """The first of two batches is bad, the update comes after the second."""
    counts = {"optim_wrapper.accumulative_counts": 2}
    train(config, tmp_path / "skip", spoil("BadImageHook", 3), action="skip", **counts)
    train(config, tmp_path / "left_out", spoil("NoStepHook", 4), **counts)
    assert finite(saved(tmp_path / "skip"))
    assert same(saved(tmp_path / "skip"), saved(tmp_path / "left_out"))
    (line,) = [x for x in logged(tmp_path / "skip").splitlines() if "this update is" in x]
    assert "iteration 4" in line
    assert len(images(line)) == 4  # the bad batch's alone


def test_all_batches_of_an_update_are_named_where_losses_are_fine(config, tmp_path):
    bad = spoil("BadGradientHook", 3, parameter=WEIGHT)
    with pytest.raises(UserError) as stopped:
        train(config, tmp_path, bad, **{"optim_wrapper.accumulative_counts": 2})
    assert len(images(str(stopped.value))) == 8


def test_running_statistics_go_back(config, tmp_path):
    """A bad image has reached them before its loss is known, and no update would mend them."""
    normed = {"model.backbone": dict(_delete_=True, **NORMED), "model.head.in_channels": 8}
    normed["model.neck"] = dict(type="GlobalAveragePooling")
    normed["optim_wrapper.constructor"] = "DefaultOptimWrapperConstructor"
    normed["optim_wrapper.paramwise_cfg"] = None
    ema = dict(type="EMAHook", momentum=0.3)
    train(config, tmp_path, ema, spoil("BadImageHook", 10), action="skip", **normed)
    weights = saved(tmp_path)
    assert any(name.endswith("running_var") for name in weights)
    assert finite(weights)
    assert finite(saved(tmp_path, "ema_state_dict"))


def test_too_many_in_a_row_stop(config, tmp_path):
    limits = dict(type="BadNumbersHook", max_consecutive=2, max_total=100)
    hooks = limits, spoil("BadLossHook", 2, 3, 5, 6, 7)
    with pytest.raises(UserError, match=r"iteration 7: .*; 3 updates in a row, 5 in all, are more"):
        train(config, tmp_path, *hooks, action="skip")


def test_too_many_in_all_stop(config, tmp_path):
    limits = dict(type="BadNumbersHook", max_total=2)
    with pytest.raises(UserError, match=r"iteration 7: .*; 1 updates in a row, 3 in all"):
        train(config, tmp_path, limits, spoil("BadLossHook", 3, 5, 7), action="skip")


def test_spoilt_weights_replace_no_checkpoint(config, tmp_path):
    with pytest.raises(UserError, match=r"1 tensors of the model hold NaN .* not saved") as stopped:
        train(config, tmp_path, spoil("BadWeightHook", 6))
    assert "epoch_2.pth" in str(stopped.value)
    assert [file.name for file in tmp_path.glob("*.pth")] == ["epoch_2.pth"]
    assert finite(saved(tmp_path))


def test_a_spoilt_average_replaces_no_checkpoint(config, tmp_path):
    """The weights themselves are finite again when the checkpoint is due."""
    ema = dict(type="EMAHook", momentum=0.3)
    good = spoil("BadWeightHook", 6, value="0.01")
    with pytest.raises(UserError, match="tensors of the model hold NaN"):
        train(config, tmp_path, spoil("BadWeightHook", 5), good, ema, action="skip")
    assert [file.name for file in tmp_path.glob("*.pth")] == ["epoch_2.pth"]


def test_spoilt_weights_are_no_start(config, tmp_path):
    train(config, tmp_path / "first", **{"train_cfg.max_epochs": 1})
    (file,) = (tmp_path / "first").glob("epoch_1.pth")
    content = torch.load(file, weights_only=False)
    content["state_dict"][WEIGHT][0, 0] = float("inf")
    torch.save(content, tmp_path / "spoilt.pth")
    with pytest.raises(UserError, match=rf"spoilt.pth: {re.escape(WEIGHT)}: .*not finite"):
        train(config, tmp_path / "second", load_from=str(tmp_path / "spoilt.pth"))


@pytest.mark.parametrize(("scale", "stops"), [(2.0**20, False), (2.0**60, True)])
def test_a_scaler_may_look_for_its_scale_but_not_forever(config, tmp_path, scale, stops):
    """Real float16 on the CPU: from 2²⁰ a handful of halvings are enough, from 2⁶⁰ are not."""
    amp = {
        "optim_wrapper.type": "CpuAmpOptimWrapper",
        "optim_wrapper.init_scale": scale,
        "train_cfg.max_epochs": 20,
    }
    if stops:
        with pytest.raises(UserError, match=r"iteration 25: \d+ of \d+ gradients are not finite"):
            train(config, tmp_path, **amp)
    else:
        runner = train(config, tmp_path, **amp)
        assert runner.optim_wrapper.loss_scaler.get_scale() < scale  # it had to look
        assert "bad numbers" not in logged(tmp_path)


def test_a_bad_loss_is_a_fault_for_a_scaler_too(config, tmp_path):
    amp = {"optim_wrapper.type": "CpuAmpOptimWrapper", "optim_wrapper.init_scale": 1.0}
    with pytest.raises(UserError, match="iteration 5: loss is nan"):
        train(config, tmp_path, spoil("BadLossHook", 5), **amp)


def test_an_unknown_action_is_refused(config, tmp_path):
    with pytest.raises(UserError, match=r"action='ignore'.*stop or skip"):
        train(config, tmp_path, dict(type="BadNumbersHook", action="ignore"))
