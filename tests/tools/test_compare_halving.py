"""tools/compare_halving.py and tools/select_weights.py as whole processes."""

import json
import runpy
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from processes import run, start
from tiny_runs import classifier_config, make_folders

from halvit_mm.analysis.weightless import build_without_weights

#: By iterations, as the comparison needs it.
_BY_STEPS = """
train_cfg = dict(type="IterBasedTrainLoop", max_iters=8, val_interval=8)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=1),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=0, T_max=8),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=8),
)
log_processor = dict(by_epoch=False)
"""


@pytest.fixture
def configs(tmp_path) -> dict[str, Path]:
    """Tiny configs of the four kinds, on images that are dark or light."""
    data = make_folders(tmp_path / "data")
    written = {}
    for name, dim in (("half", 32), ("dense", 32), ("narrow", 16), ("distilled", 32)):
        path = classifier_config(tmp_path / f"{name}.py", data, dim=dim)
        text = path.read_text()
        text = text[: text.index("train_cfg =")] + text[text.index("val_cfg =") :]
        text = text[: text.index("default_hooks")] + _BY_STEPS
        if name in ("dense", "narrow"):
            text = text.replace("img_size=32)", "img_size=32, tied=False)")
        if name == "distilled":
            teacher = f"teacher=dict(config={str(tmp_path / 'dense.py')!r}, checkpoint=None),"
            losses = "distillation=dict(prediction=dict(weight=0.5)), label_weight=0.5,"
            text = text.replace(
                '"ImageClassifier",', f'"DistilledClassifier",\n    {teacher}\n    {losses}'
            ).replace('["halvit_mm"]', '["halvit_mm", "halvit_mm.distillation"]')
        path.write_text(text)
        written[name] = path
    return written


@pytest.fixture
def tool(root) -> list:
    return [sys.executable, root / "tools/compare_halving.py"]


@pytest.mark.full
def test_from_configs_to_the_report_and_again(tool, configs, tmp_path):
    command = [
        *tool, configs["dense"], configs["half"], configs["distilled"],
        "--narrow", configs["narrow"], "--work-dir", "out", "--steps", "8", "--seeds", "5",
        "--budgets", "1", "--jobs", "2", "--methods", "average",
    ]  # fmt: skip
    status, output, errors = run(command, tmp_path)
    logs = {path.name: path.read_text()[-2000:] for path in (tmp_path / "out").glob("*/*.log")}
    assert status == 0, (output, errors, logs)
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    measured = {(r["arm"], r["steps"]) for r in content["results"]}
    arms = ("scratch", "scratch-distilled", "narrow-selected", "halved-average", "halved",
            "halved-distilled")  # fmt: skip
    assert measured == {
        ("dense", 8), ("dense-continued", 2), ("narrow-selected", 0), ("halved-average", 0),
        ("halved", 0), *((arm, 8) for arm in arms),
    }  # fmt: skip
    assert (tmp_path / "out/comparison.png").stat().st_size > 10_000
    assert "not run" in (tmp_path / "out/comparison.md").read_text()  # aligned
    status, output, errors = run(command, tmp_path)
    assert status == 0, errors
    assert output.startswith("14 of 14 parts are finished already\n\nTop-1")
    assert len(list((tmp_path / "out/seed5/scratch_8").glob("*/vis_data"))) == 1


@pytest.mark.full
def test_kill_ends_the_training_too(tool, configs, tmp_path):
    command = [*tool, configs["dense"], configs["half"], "--work-dir", "out", "--steps", "1000000"]
    with start(command, tmp_path) as process:
        try:
            log = tmp_path / "out/seed0/dense_1000000.log"
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                if log.exists() and "Iter(train)" in log.read_text():
                    break
                time.sleep(0.1)
            process.terminate()
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors.strip()) == (130, "interrupted")
    size = log.stat().st_size
    time.sleep(1)
    assert log.stat().st_size == size


def test_what_was_not_run_is_said_so(tool, configs, tmp_path):
    command = [*tool, configs["dense"], configs["half"], "--work-dir", "out", "--steps", "8"]
    status, output, errors = run([*command, "--report-only"], tmp_path)
    assert status == 0, errors
    assert "| scratch " in output and "not run" in output
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    assert content["results"] == []
    assert {target["met"] for target in content["targets"]} == {None}
    assert content["parameters"]["half"] < content["parameters"]["dense"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps 0: give 1 or more"),
        (["--steps", "8", "--budgets", "2"], "--budgets 2: give fractions of --steps"),
        (["--steps", "8", "--seeds", "-1"], "--seeds -1: give 0 or more"),
        (["--steps", "8", "--arms", "nothing"], "invalid choice: 'nothing'"),
        (["--steps", "8", "--arms", "halved-distilled"], "give DISTILLED_CONFIG"),
        (["--steps", "8", "--arms", "narrow-selected"], "give --narrow"),
        (["--steps", "8", "--narrow", "absent.py"], "error: absent.py: there is no such config"),
    ],
)
def test_mistakes_end_in_one_sentence(
    root, configs, tmp_path, options, message, monkeypatch, capsys
):
    tool = root / "tools/compare_halving.py"
    arguments = [configs["dense"], configs["half"], "--work-dir", tmp_path / "out", *options]
    monkeypatch.syspath_prepend(root / "tools")
    monkeypatch.setattr(sys, "argv", [str(tool), *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(tool), run_name="__main__")
    output, errors = capsys.readouterr()
    assert (caught.value.code, output) == (2, "")
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_selected_weights_start_a_training(root, configs, tmp_path):
    """The narrow model loads them whole, and says so."""
    model = build_without_weights(Config.fromfile(configs["dense"]))
    weights = {name: torch.ones(value.shape) for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "wide.pth")
    select = [sys.executable, root / "tools/select_weights.py", "wide.pth", "narrow.pth"]
    status, output, errors = run([*select, "--config", configs["narrow"]], tmp_path)
    assert status == 0, errors
    assert output.endswith("numbers; they are in narrow.pth\n")
    train = [sys.executable, root / "tools/train.py", configs["narrow"], "--work-dir", "narrow"]
    options = ["--cfg-options", "train_cfg.max_iters=1", "train_cfg.val_interval=1"]
    status, output, errors = run([*train, "--load-from", "narrow.pth", *options], tmp_path)
    assert status == 0, errors
    assert "100.0% of the parameters" in output + errors
