"""The bytes of gradients that processes add up in each training step."""

import json
import sys

import pytest
from mmengine.config import Config
from processes import run
from torch import distributed

from halvit_mm.analysis.traffic import measure_traffic
from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError


def small(root, name: str, **backbone) -> Config:
    cfg = load_config(root / f"configs/imagenet/{name}_imagenet.py")
    cfg.model.backbone.update(backbone)
    cfg.model.head.in_channels = backbone["arch"]["dim"]
    return cfg


def test_each_weight_is_sent_once(root):
    """Tied: W serves as itself and as its transpose, and has one gradient of four bytes each."""
    arch = dict(dim=64, depth=2, num_heads=2)
    ours, dense = measure_traffic(small(root, "halvit_medium", arch=arch, img_size=224))
    assert (ours.bytes, dense.bytes) == (4 * ours.parameters, 4 * dense.parameters)
    # Two of four products of attention and one of two of the feed-forward have no weight left.
    assert dense.parameters - ours.parameters == arch["depth"] * (2 + 4) * arch["dim"] ** 2
    assert not distributed.is_initialized()


def test_frozen_weights_are_not_sent(root):
    arch = dict(dim=64, depth=2, num_heads=2)
    cfg = small(root, "halvit_medium", arch=arch, img_size=224, frozen_stages=2)
    ours, _ = measure_traffic(cfg)
    assert ours.bytes == 4 * ours.parameters < 4 * (64 + 1) * 1000 + 4 * 1000


def test_a_process_among_others_is_refused(root, tmp_path):
    distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match="in a process of its own"):
            measure_traffic(Config())
    finally:
        distributed.destroy_process_group()


def test_the_command_prints_and_keeps_figures(root, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        f'_base_ = ["{root}/configs/imagenet/mini_deit_tiny_imagenet.py"]\n'
        "model = dict(backbone=dict(arch=dict(dim=48, depth=8, num_heads=3, _delete_=True)), "
        "head=dict(in_channels=48))\n"
    )
    command = [sys.executable, root / "tools/measure_traffic.py", config, "--json", "traffic.json"]
    status, output, errors = run(command, tmp_path)
    assert status == 0, errors
    row = json.loads((tmp_path / "traffic.json").read_text())["results"][str(config)]
    assert row["bytes"] == 4 * row["parameters"]
    assert row["ratio"] == row["bytes"] / row["dense_twin"]["bytes"] < 0.8
    assert f"{row['ratio']:.3f}  {config}" in output
