"""Bad numbers in one of two processes: both must do the same, or the job hangs or drifts apart."""

import re

import torch
from processes import free_port, run
from tiny_runs import classifier_config, make_folders

HOOKS = """
custom_imports["imports"].append("bad_batches")
custom_hooks = [
    # The gradients are fine: only the second process can know.
    dict(type="BadLossHook", iterations=[1], rank=1, value="inf"),
    dict(type="BadImageHook", iterations=[3, 4], rank=1),
    dict(type="BadNumbersHook", max_consecutive=1),
    dict(type="WriteWeightsHook", file="weights"),
]
train_cfg.update(max_epochs=3, val_interval=10)
default_hooks["checkpoint"]["interval"] = 1
"""


def test_both_skip_and_both_stop(root, tmp_path):
    config = classifier_config(tmp_path / "tiny.py", make_folders(tmp_path / "data"), dim=16)
    config.write_text(config.read_text().replace("batch_size=4", "batch_size=2") + HOOKS)
    status, output, errors = run(
        [
            *("bash", root / "tools/dist_train.sh", config, "2"),
            *("--work-dir", tmp_path / "work", "--on-bad-numbers", "skip"),
        ],
        tmp_path,
        PORT=free_port(),
        PYTHONPATH=str(root / "tests"),
        CUDA_VISIBLE_DEVICES="",
    )
    assert status != 0
    text = output + errors
    ends = re.findall(r"error: bad numbers in iteration (\d): .*2 updates in a row", text)
    assert set(ends) == {"4"}  # the launcher may end the second one while it says so
    (left_out,) = set(
        re.findall(r"bad numbers in iteration 1: (.*); this update is left out", text)
    )
    assert left_out.startswith("loss is inf, for ")
    assert len(re.findall(r"\d\.png", left_out)) == 2  # the second process's images
    (first, weights), (second, others) = (
        torch.load(tmp_path / f"weights.{rank}", weights_only=True) for rank in range(2)
    )
    assert first == second == 3
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    (file,) = (tmp_path / "work").glob("epoch_*.pth")
    assert file.name == "epoch_1.pth"
    assert all(bool(one.isfinite().all()) for one in weights.values())
    assert str(file) in text
