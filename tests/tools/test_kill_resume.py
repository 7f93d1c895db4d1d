"""Training killed within an epoch and resumed, by the commands as whole processes."""

import sys

import pytest
import torch
from processes import free_port, run
from recording import batches_of
from tiny_runs import classifier_config, make_folders

AVERAGED = dict(type="EMAHook", momentum=0.1)


@pytest.mark.parametrize(
    ("processes", "arguments", "options"),
    [
        pytest.param(1, ["--amp", "bfloat16"], [], id="bfloat16"),
        pytest.param(
            2,
            [],
            ["train_dataloader.sampler.type=RepeatAugSampler", "train_dataloader.batch_size=2"],
            id="two processes",
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_killed_training_goes_on_with_the_batches_left(
    tmp_path, root, processes, arguments, options
):
    """Three batches an epoch, updates after two, saved after four, killed after six."""
    data = make_folders(tmp_path / "data", images=5)
    env = {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(root / "tests"),
    }

    def train(work: str, *more: str, hooks: tuple = ()) -> tuple[int, str, str]:
        config = classifier_config(tmp_path / f"{work}.py", data, dim=16)
        hooks = [dict(type="RecordImagesHook", file=f"{work}_seen"), AVERAGED, *hooks]
        with config.open("a") as file:
            print('custom_imports = dict(imports=["halvit_mm", "recording"])', file=file)
            print(f"custom_hooks = {hooks}", file=file)
            print("val_cfg = val_dataloader = val_evaluator = None", file=file)
            print("randomness = dict(seed=3)", file=file)
            print("train_cfg = dict(by_epoch=True, max_epochs=3)", file=file)
            print("optim_wrapper.update(accumulative_counts=2)", file=file)
        start = [sys.executable, root / "tools/train.py", config]
        if processes > 1:
            start = ["bash", root / "tools/dist_train.sh", config, str(processes)]
        command = [*start, "--work-dir", work, *arguments, *more]
        if options:
            command += ["--cfg-options", *options]
        return run(command, tmp_path, PORT=free_port(), **env)

    status, _, errors = train("whole")
    assert status == 0, errors
    kill = dict(type="EndAfterHook", iterations=6, kill=True)
    status, output, errors = train("work", "--checkpoint-interval", "3", hooks=(kill,))
    assert status != 0
    assert "checkpoints every 4 iterations instead of 3" in output
    assert (tmp_path / "work/last_checkpoint").read_text().endswith("mid_epoch.pth"), errors
    seen = [batches_of(tmp_path / "work_seen", rank) for rank in range(processes)]
    for rank in range(processes):
        (tmp_path / f"work_seen.{rank}").unlink()
    status, output, errors = train("work", "--resume")
    assert status == 0, errors
    assert "resumed within an epoch: 1 of its 3 batches are done" in output

    for rank in range(processes):
        whole = batches_of(tmp_path / "whole_seen", rank)
        assert len(whole) == 9
        assert seen[rank][:4] + batches_of(tmp_path / "work_seen", rank) == whole
    one, other = (
        torch.load(tmp_path / work / "epoch_3.pth", weights_only=False)
        for work in ("whole", "work")
    )
    for part in ("state_dict", "ema_state_dict"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    assert one["meta"]["iter"] == other["meta"]["iter"] == 9
