"""A training by several processes one of which is killed, fails or falls silent."""

import time
from pathlib import Path

import pytest
import torch
from processes import free_port, run
from tiny_runs import classifier_config, make_folders

#: By when a job must have ended after it has lost a process, in seconds.
SOON = 60


@pytest.fixture
def train(tmp_path, root):
    data = make_folders(tmp_path / "data", images=6)

    def run_job(work: str, *arguments: str, hooks: tuple = (), **env: str):
        config = classifier_config(tmp_path / f"{work}.py", data, dim=16)
        with config.open("a") as file:
            print('custom_imports = dict(imports=["halvit_mm", "recording"])', file=file)
            print(f"custom_hooks = {[dict(type='EMAHook', momentum=0.1), *hooks]}", file=file)
            print("val_cfg = val_dataloader = val_evaluator = None", file=file)
            print("randomness = dict(seed=3)", file=file)
            print("train_cfg = dict(by_epoch=True, max_epochs=3)", file=file)
            print("train_dataloader.update(batch_size=2)", file=file)
        command = ["bash", root / "tools/dist_train.sh", config, "2", "--work-dir", work]
        env = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root / "tests"), **env}
        return run([*command, *arguments], tmp_path, PORT=free_port(), **env)

    return run_job


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            pass  # it has ended
    return found


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("how", "arguments", "reported"),
    [
        ("SIGKILL", [], "Signal 9 (SIGKILL)"),
        pytest.param("fail", [], "ZeroDivisionError: for once", marks=pytest.mark.full),
        pytest.param(
            "SIGSTOP",
            ["--cfg-options", "env_cfg.dist_cfg.timeout=5"],
            "env_cfg.dist_cfg.timeout allows",
            marks=pytest.mark.full,
        ),
    ],
)
def test_the_job_ends_soon_and_says_why(tmp_path, train, how, arguments, reported):
    lost = dict(type="LoseProcessHook", iteration=4, how=how)
    status, _, errors = train("work", *arguments, "--checkpoint-interval", "3", hooks=(lost,))
    took = time.time() - float((tmp_path / "lost_at").read_text())
    assert status not in (0, None)
    assert reported in errors
    if how != "fail":  # then the launcher may end the other before it knows
        assert "error: process 0 of 2: another one has ended" in errors
        assert "then --resume goes on from the last good checkpoint, work/" in errors
    assert took < SOON
    assert processes_of(tmp_path) == []


@pytest.mark.full
def test_what_lost_a_process_goes_on_to_the_same_end(tmp_path, train):
    status, _, errors = train("whole")
    assert status == 0, errors
    lost = dict(type="LoseProcessHook", iteration=4, how="SIGKILL")
    status, _, _ = train("work", "--checkpoint-interval", "2", hooks=(lost,))
    assert status != 0
    status, output, errors = train("work", "--checkpoint-interval", "2", "--resume")
    assert status == 0, errors
    assert "resumed within an epoch: 1 of its 3 batches are done" in output
    one, other = (
        torch.load(tmp_path / work / "epoch_3.pth", weights_only=False)
        for work in ("whole", "work")
    )
    for part in ("state_dict", "ema_state_dict"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    moments, others = (checkpoint["optimizer"]["state"] for checkpoint in (one, other))
    assert moments.keys() == others.keys() != set()
    for index, state in moments.items():
        assert all(torch.equal(state[name], others[index][name]) for name in state)


def test_processes_with_one_mistake_say_it_once(tmp_path, root):
    command = ["bash", root / "tools/dist_train.sh", "absent.py", "2"]
    status, _, errors = run(command, tmp_path, PORT=free_port(), CUDA_VISIBLE_DEVICES="")
    assert status != 0
    assert errors.count("error: absent.py: there is no such config; check the path") == 1
