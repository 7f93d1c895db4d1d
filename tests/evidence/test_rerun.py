"""Experiments run again for real, on a toy, and their logs replace the stored ones."""

import json
import sys
from dataclasses import replace

import pytest
from processes import run
from tiny_runs import classifier_config, make_folders

from halvit_mm.errors import UserError
from halvit_mm.evidence import rerun as module
from halvit_mm.evidence.experiments import DATA, Data, Experiment, training
from halvit_mm.evidence.logs import Logs
from halvit_mm.evidence.records import FACTS, faults, metrics_of, read_record
from halvit_mm.evidence.rerun import check_data, rerun


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A training of a second, a measurement that reads it, and where their logs go."""
    monkeypatch.setitem(
        DATA, "toy",
        Data(variable="TOY_ROOT", default="data/toy", files=("light",), cure="draw it"),
    )  # fmt: skip
    monkeypatch.setenv("TOY_ROOT", str(make_folders(tmp_path / "toy")))
    config = classifier_config(tmp_path / "toy.py", tmp_path / "toy")
    options = [f"train_cfg.{key}=2" for key in ("max_epochs", "val_interval")]
    options += ["default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=2"]
    trained = training("toy_seed3", str(config), options, data="toy", seed=3)
    count = ("tools/count_params.py", str(config), "--json", "{out}")
    counted = Experiment(log="sizes/toy", commands=(count,), needs=("toy_seed3",))
    return trained, counted


@pytest.fixture
def forked(monkeypatch, root):
    """Commands run in processes that are forked from one with the libraries imported."""

    class Done:
        def __init__(self, status):
            self.returncode = status

    def call(command, *, cwd, stdout, env, **_):
        changed = {key: value for key, value in env.items() if key in ("OMP_NUM_THREADS",)}
        status, output, errors = run(command, cwd, **changed)
        stdout.write((output + errors).encode())
        return Done(status)

    monkeypatch.setattr(module.subprocess, "run", call)


def test_toy(toy, forked, tmp_path, root):
    results, runs, told = tmp_path / "results", tmp_path / "runs", []
    old = results / "toy_seed3/20200101_000000/vis_data/scalars.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"accuracy/top1": 1.0, "step": 2, "iter": 3}\n')

    assert rerun(toy, Logs(results), runs=runs, root=root, tell=told.append) == {}
    assert told == ["[1/2] toy_seed3", "[2/2] sizes/toy"]
    logs = Logs(results)
    assert not old.exists()
    assert logs.names == ["sizes/toy", "toy_seed3"]
    assert faults(logs) == []
    record = read_record(logs, "toy_seed3")
    assert record["seed"] == 3
    assert record["metrics"] == metrics_of(logs, "toy_seed3")
    assert 0 <= record["metrics"]["accuracy/top1"] <= 100
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["hardware"]["environment"]["OMP_NUM_THREADS"] == "1"
    assert "randomness.seed=3" in record["command"]
    assert "from_docs" not in record
    assert set(FACTS) <= set(read_record(logs, "sizes/toy"))
    assert str(runs) not in (results / "sizes/toy.json").read_text()

    # What is finished is adopted; without its mark the training goes on from its checkpoint.
    told.clear()
    rerun(toy, logs, runs=runs, root=root, tell=told.append)
    assert told == ["[1/2] toy_seed3: finished already", "[2/2] sizes/toy: finished already"]
    assert "--resume" in module.filled(toy[0], runs)[0]


def test_failures_are_told_and_others_go_on(toy, forked, tmp_path, root):
    broken = replace(toy[0], commands=(("tools/train.py", "nothing.py", "--work-dir", "{work}"),))
    other = replace(toy[1], log="other", needs=())
    results = tmp_path / "results"
    failures = rerun(
        (broken, toy[1], other), Logs(results), runs=tmp_path / "runs", root=root,
        tell=lambda _: None,
    )  # fmt: skip
    assert failures["toy_seed3"].startswith("train.py failed with status 2")
    assert "nothing.py" in failures["toy_seed3"]
    assert failures["sizes/toy"] == "needs toy_seed3, which failed"
    assert Logs(results).names == ["other"]


def test_missing_data_is_one_sentence_before_anything_starts(toy, tmp_path, monkeypatch, root):
    monkeypatch.setenv("TOY_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(UserError) as error:
        rerun(toy, Logs(tmp_path / "results"), runs=tmp_path / "runs", root=root)
    assert str(error.value) == (
        "data that the experiments need is missing:\n"
        f"  toy is not in {tmp_path / 'nowhere'} (for toy_seed3): draw it, or set TOY_ROOT to its "
        "folder"
    )
    assert not (tmp_path / "runs").exists()
    # What is finished needs none.
    done = tmp_path / "runs/toy_seed3/done"
    done.parent.mkdir(parents=True)
    done.touch()
    check_data(toy, tmp_path / "runs")


def test_commands_of_the_tool(root):
    tool = [sys.executable, "tools/make_results.py"]
    status, output, errors = run([*tool, "--rerun", "transfer", "--dry-run"], root)
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "# nuclei_transfer_scratch_cpu"
    assert lines[1].startswith("OMP_NUM_THREADS=1 python tools/train.py configs/nuclei/")
    assert json.dumps(lines).count("epoch_4.pth") == 1

    status, output, _ = run([*tool, "--list"], root)
    assert status == 0
    assert "windows: docs/results.md; from windows_800x1333" in output.splitlines()

    for arguments in (["nothing"], ["--rerun", "nothing", "--dry-run"]):
        status, _, errors = run([*tool, *arguments], root)
        assert (status, errors.count("\n")) == (2, 1)
        assert "nothing: no table" in errors
