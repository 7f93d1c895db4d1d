"""TensorBoard's files of real trainings, beside mmengine's own log of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from processes import run
from tiny_runs import classifier_config, detector_config, make_coco, make_folders

from halvit_mm.engine.tensorboard import set_tensorboard
from halvit_mm.errors import UserError


def train(root: Path, folder: Path, config: Path, *options: str) -> Path:
    """Trains with the flag; the folder with what was logged."""
    command = [sys.executable, root / "tools/train.py", config, "--work-dir", "work"]
    status, _, errors = run([*command, "--tensorboard", "--cfg-options", *options], folder)
    assert status == 0, errors
    (log,) = folder.glob("work/*/vis_data")
    return log


def read_events(log: Path) -> list[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log))
    events.Reload()
    return sorted(
        (tag, event.step, event.value)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    )


def read_json(log: Path) -> list[tuple[str, int, float]]:
    lines = [json.loads(line) for line in (log / "scalars.json").read_text().splitlines()]
    return sorted(
        (tag, line["step"], value) for line in lines for tag, value in line.items() if tag != "step"
    )


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_both_logs_say_the_same(tmp_path, root, kind):
    options = ["default_hooks.logger.interval=1", "train_cfg.max_epochs=2"]
    if kind == "classifier":  # a config without any visualiser
        config = classifier_config(tmp_path / "c.py", make_folders(tmp_path / "data"))
        options.append("train_cfg.val_interval=1")
    else:
        config = detector_config(tmp_path / "c.py", make_coco(tmp_path / "data"))
        with config.open("a") as file:
            file.write("visualizer.update(vis_backends=[dict(type='LocalVisBackend')])")
    log = train(root, tmp_path, config, *options)
    events, lines = read_events(log), read_json(log)
    tags = {tag for tag, _, _ in events}
    assert {"loss", "lr", "time"} <= tags
    assert ("accuracy/top1" in tags) == (kind == "classifier")
    assert [step for tag, step, _ in events if tag == "loss"] == [1, 2, 3, 4]
    assert [event[:2] for event in events] == [line[:2] for line in lines]
    # TensorBoard rounds to 32 bits.
    np.testing.assert_allclose([e[2] for e in events], [line[2] for line in lines], rtol=1e-6)


def test_what_a_config_logs_to_stays():
    cfg = Config(dict(visualizer=dict(type="DetLocalVisualizer", name="seen")))
    set_tensorboard(cfg)
    assert cfg.visualizer.name == "seen"
    assert cfg.visualizer.vis_backends == [dict(type="TensorboardVisBackend")]

    backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend", save_dir="a")]
    cfg = Config(dict(visualizer=dict(type="Visualizer", vis_backends=backends)))
    set_tensorboard(cfg)
    assert cfg.visualizer.vis_backends == backends


def test_without_tensorboard_the_cure_is_named(monkeypatch):
    for module in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"--tensorboard: .*; pip install tensorboard$") as caught:
        set_tensorboard(Config(dict()))
    assert "\n" not in str(caught.value)
