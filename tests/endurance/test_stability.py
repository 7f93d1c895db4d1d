"""Trainings in two precisions, measured by the tool."""

import json
import sys

import numpy as np
from PIL import Image
from processes import run
from tiny_runs import classifier_config, make_folders

BY_STEPS = """
train_cfg = dict(type="IterBasedTrainLoop", max_iters=1, val_interval=1)
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=False, begin=0, T_max=1)]
default_hooks["checkpoint"].update(by_epoch=False)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
"""


def test_precisions_start_alike_and_are_measured_alike(root, tmp_path):
    config = classifier_config(tmp_path / "tiny.py", make_folders(tmp_path / "data"), dim=16)
    config.write_text(config.read_text() + BY_STEPS)
    out, chart = tmp_path / "out.json", tmp_path / "out.png"
    status, output, errors = run(
        [
            *(sys.executable, root / "tools/measure_stability.py", config, "--steps", "24"),
            *("--interval", "2", "--out", out, "--chart", chart, "--work-dir", tmp_path / "work"),
        ],
        tmp_path,
        CUDA_VISIBLE_DEVICES="",
    )
    assert status == 0, errors
    wide, narrow = json.loads(out.read_text())["trainings"]
    assert (wide["dtype"], narrow["dtype"]) == ("float32", "bfloat16")
    for one in (wide, narrow):
        assert one["steps"] == 24
        assert one["iterations"] == list(range(2, 25, 2))
        assert {len(curve) for curve in one["curves"].values()} == {12}
        assert np.isfinite(list(one["curves"].values())).all()
        assert 0 <= one["metrics"]["accuracy/top1"] <= 100
        norms = one["curves"]
        assert np.all(np.array(norms["layers_weight_norm"]) < norms["weight_norm"])
    first = [one["curves"]["gradient_norm"][0] for one in (wide, narrow)]
    assert 0 < abs(first[0] - first[1]) < 0.02 * first[0]  # bfloat16 has eight bits
    assert wide["curves"]["loss"] != narrow["curves"]["loss"]
    assert output.count("| tiny |") == 2
    assert Image.open(chart).width == 1500
