"""The scripts for Slurm, by an ``srun`` that starts the tasks on this machine."""

import os
import time

import pytest
from processes import free_port, run
from tiny_runs import classifier_config, make_folders

# Notes its options, and starts as many tasks as it is told, with what Slurm tells each of them.
# As Slurm's own, it ends all tasks when one fails only if it is told so.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do
    echo "$1" >> srun_options
    [[ $1 == --ntasks=* ]] && ntasks=${1#*=}
    [[ $1 == --kill-on-bad-exit=1 ]] && kill_all=yes
    shift
done
export SLURM_NTASKS=$ntasks SLURM_NNODES=1 SLURM_NODELIST=localhost
tasks=()
for ((i = 0; i < ntasks; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
    tasks+=($!)
done
status=0
for task in "${tasks[@]}"; do
    wait -n || { status=$?; [[ $kill_all ]] && kill -KILL "${tasks[@]}" 2> /dev/null; }
done
exit $status
"""


@pytest.fixture
def path(tmp_path) -> str:
    """A PATH with that srun."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    return f"{srun.parent}:{os.environ['PATH']}"


def test_two_tasks_train_one_model(tmp_path, root, path):
    config = classifier_config(tmp_path / "config.py", make_folders(tmp_path / "data"))
    command = ["bash", root / "tools/slurm_train.sh", "cpu", "tiny", config, "--work-dir", "work"]
    options = ["--cfg-options", "train_cfg.max_epochs=1", "default_hooks.checkpoint.interval=1"]
    env = {"PATH": path, "GPUS": "2", "GRES": "", "PORT": free_port(), "CUDA_VISIBLE_DEVICES": ""}
    status, output, errors = run([*command, *options], tmp_path, **env)
    assert status == 0, errors
    # Eight images in batches of four: one step for each process.
    assert "Epoch(train)  [1][1/1]" in output or "Epoch(train) [1][1/1]" in output
    assert (tmp_path / "work/epoch_1.pth").exists()
    assert "--gres" not in (tmp_path / "srun_options").read_text()


@pytest.mark.parametrize(
    ("script", "arguments", "tool"),
    [
        ("slurm_train.sh", ["config.py", "--amp"], "train.py config.py --launcher slurm --amp"),
        (
            "slurm_test.sh",
            ["config.py", "epoch_1.pth", "--tta"],
            "test.py config.py epoch_1.pth --launcher slurm --tta",
        ),
    ],
)
def test_options_reach_srun_and_the_tool(tmp_path, root, path, script, arguments, tool):
    command = ["bash", root / "tools" / script, "gpu", "big", *arguments]
    env = {"PATH": path, "GPUS": "16", "CPUS_PER_TASK": "7", "SRUN_ARGS": "--time=9 --mem=1G"}
    status, output, errors = run(command, tmp_path, **env, PYTHON="echo")
    assert status == 0, errors
    assert output.splitlines() == [f"-u {root}/tools/{tool}"] * 16
    assert (tmp_path / "srun_options").read_text().splitlines() == [
        "--partition=gpu",
        "--job-name=big",
        "--gres=gpu:8",
        "--ntasks=16",
        "--ntasks-per-node=8",
        "--cpus-per-task=7",
        "--kill-on-bad-exit=1",
        "--time=9",
        "--mem=1G",
    ]


@pytest.mark.parametrize(("script", "needed"), [("slurm_train.sh", 3), ("slurm_test.sh", 4)])
def test_scripts_say_how_they_are_used(tmp_path, root, script, needed):
    command = ["bash", root / "tools" / script, *(["x"] * (needed - 1))]
    status, _, errors = run(command, tmp_path)
    assert status == 2
    assert errors.startswith("usage: ")


def test_a_task_that_fails_ends_the_job(tmp_path, root, path):
    """The others would wait for it until the time limit of their communication or of the job."""
    task = tmp_path / "task"
    task.write_text("#!/usr/bin/env bash\n[[ $SLURM_PROCID == 0 ]] && exec sleep 300\nexit 3\n")
    task.chmod(0o755)
    command = ["bash", root / "tools/slurm_train.sh", "cpu", "tiny", "config.py"]
    started = time.monotonic()
    status, _, _ = run(command, tmp_path, PATH=path, GPUS="2", GRES="", PYTHON=str(task))
    assert status != 0
    assert time.monotonic() - started < 60
