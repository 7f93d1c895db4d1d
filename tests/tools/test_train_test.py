"""The commands as whole processes: train, kill, resume, test, and two processes at once."""

import json
import re
import runpy
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import free_port, run, start
from tiny_runs import detector_config, make_coco


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return detector_config(folder / "config.py", make_coco(folder / "data"))


def test_train_kill_resume_test(tmp_path, root, config):
    train = [sys.executable, root / "tools/train.py", config, "--work-dir", "work"]
    process = start([*train, "--cfg-options", "train_cfg.max_epochs=100000"], tmp_path)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "work/last_checkpoint").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()

    # The kill may have hit the next checkpoint while it was written.
    noted = re.findall(r"epoch_(\d+)", (tmp_path / "work/last_checkpoint").read_text())
    last = max(map(int, noted), default=1)
    options = ["--cfg-options", f"train_cfg.max_epochs={last + 2}"]
    status, output, errors = run([*train, "--resume", *options], tmp_path)
    assert status == 0, errors
    continued = int(re.search(r"training continues from work/epoch_(\d+)\.pth", output)[1])
    assert continued in (last, last + 1)
    assert f"Epoch(train) [{continued}]" not in output
    assert f"Epoch(train) [{last + 2}]" in output

    checkpoint = tmp_path / f"work/epoch_{last + 2}.pth"
    iterations = torch.load(checkpoint, weights_only=False)["meta"]["iter"]
    assert iterations == 2 * (last + 2)
    test = [sys.executable, root / "tools/test.py", config, checkpoint, "--work-dir", "work"]
    options = ["--json", "metrics.json", "--cfg-options", "model.test_cfg.score_thr=0.0"]
    status, output, errors = run([*test, *options], tmp_path)
    assert status == 0, errors
    assert 0 <= json.loads((tmp_path / "metrics.json").read_text())["coco/bbox_mAP_50"] <= 1


def test_two_processes_train_one_model(tmp_path, root, config):
    command = ["bash", root / "tools/dist_train.sh", config, "2", "--work-dir", "work"]
    options = ["--cfg-options", "train_cfg.max_epochs=1", "model.test_cfg.score_thr=0.0"]
    # Hidden GPUs, so that the processes meet over gloo wherever this runs.
    gpus = {"CUDA_VISIBLE_DEVICES": ""}
    status, output, errors = run([*command, *options], tmp_path, PORT=free_port(), **gpus)
    assert status == 0, errors
    # Four images in batches of two: one step for each process.
    assert "Epoch(train) [1][1/1]" in output
    assert torch.load(tmp_path / "work/epoch_1.pth", weights_only=False)["meta"]["iter"] == 1


@pytest.mark.full
def test_two_machines_train_one_model(tmp_path, root, config):
    """Here both are this one; each starts one of the two processes."""
    command = ["bash", root / "tools/dist_train.sh", config, "1", "--work-dir", "work"]
    options = ["--cfg-options", "train_cfg.max_epochs=1", "model.test_cfg.score_thr=0.0"]
    env = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "PORT": free_port()}
    env["CUDA_VISIBLE_DEVICES"] = ""
    nodes = [start([*command, *options], tmp_path, NODE_RANK=str(i), **env) for i in range(2)]
    try:
        (output, errors), _ = [node.communicate(timeout=500) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], errors
    assert "Epoch(train) [1][1/1]" in output


@pytest.mark.full
def test_two_processes_test_as_one_does(tmp_path, root, config):
    options = ["--cfg-options", "train_cfg.max_epochs=1", "model.test_cfg.score_thr=0.0"]
    train = [sys.executable, root / "tools/train.py", config, "--work-dir", "work"]
    assert run([*train, *options], tmp_path)[0] == 0
    checkpoint = "work/epoch_1.pth"
    tail = ["--work-dir", "work", *options]
    one = [sys.executable, root / "tools/test.py", config, checkpoint, "--json", "1.json", *tail]
    two = ["bash", root / "tools/dist_test.sh", config, checkpoint, "2", "--json", "2.json", *tail]
    assert run(one, tmp_path)[0] == 0
    assert run(two, tmp_path, PORT=free_port(), CUDA_VISIBLE_DEVICES="")[0] == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()


def test_a_mistake_ends_in_one_line_and_status_2(tmp_path, root):
    command = [sys.executable, root / "tools/test.py", "absent.py", "absent.pth"]
    status, output, errors = run(command, tmp_path)
    assert (status, output) == (2, "")
    assert errors == "error: absent.py: there is no such config; check the path\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train.py", "absent.py"], "error: absent.py: there is no such config"),
        (["test.py", "CONFIG", "absent.pth"], "error: absent.pth: there is no such checkpoint"),
        (["train.py", "CONFIG", "--work-dir", "/proc/1/x"], "error: --work-dir /proc/1/x: cannot"),
        (
            ["train.py", "CONFIG", "--cfg-options", "model"],
            "train.py: error: --cfg-options takes KEY=VALUE, not 'model'",
        ),
    ],
)
def test_mistakes_leave_nothing_behind(
    tmp_path, root, config, monkeypatch, capsys, arguments, reason
):
    tool, *rest = [str(config) if argument == "CONFIG" else argument for argument in arguments]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(root / "tools")
    monkeypatch.setattr(sys, "argv", [tool, *rest])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(root / "tools" / tool), run_name="__main__")
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip().split("\n")[-1].startswith(reason)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh"])
def test_scripts_say_how_they_are_used(tmp_path, root, script):
    status, _, errors = run(["bash", root / "tools" / script, "config.py"], tmp_path)
    assert status == 2
    assert errors.startswith("usage: ")
