"""Bytes that scale with the number of weights, of models whose weights are known."""

import io

import pytest
import torch
from tiny_sources import CLASSES, SIZE, Slow, Tied, Tiny
from torch import nn

from halvit_mm.benchmark.case import Case
from halvit_mm.benchmark.footprint import footprint, in_backbone, stored_bytes
from halvit_mm.benchmark.sources import FromConfig

CASE = Case(size=SIZE, classes=CLASSES, batch=2)


def saved(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return len(file.getvalue())


def test_bytes_of_a_tied_model():
    """Its weight of 192 × 192 counts once in everything, though two layers have it."""
    found = footprint(Tiny(Tied), CASE)
    backbone = 4 * (192 * 192 + 192 + 192)
    head = 4 * (192 * CLASSES + CLASSES)
    for part, weights, parameters in (("", backbone + head, 5), (", backbone", backbone, 3)):
        assert found[f"weights{part}"] == [weights]
        assert found[f"gradients{part}"] == [weights]
        # AdamW keeps two moments of each weight, and the number of steps of each parameter.
        assert found[f"optimiser state{part}"] == [2 * weights + 4 * parameters]
        assert found[f"all-reduced{part}"] == [weights]
        (checkpoint,) = found[f"checkpoint{part}"]
        assert weights < checkpoint < weights + 4000
    assert found["FLOPs"] == [2 * 2 * (2 * 192 * 192 + 192 * CLASSES)]
    assert len(found["bf16 error"]) == 5
    assert all(1e-4 < error < 0.05 for error in found["bf16 error"])


def test_checkpoint_is_the_file_that_torch_writes():
    assert footprint(Tiny(Slow, 0.0), CASE)["checkpoint"] == [saved(Slow(0.0))]


def test_a_view_counts_as_what_it_keeps():
    whole = torch.zeros(10, 7)
    assert stored_bytes([whole[0], whole[:, 1], torch.zeros(3)]) == 4 * (70 + 3)
    assert stored_bytes([]) == 0


def test_what_belongs_to_the_backbone():
    keep = in_backbone(Tied())
    assert keep("backbone.first.weight") and not keep("head.weight")
    keep = in_backbone(Slow(0.0))  # such as timm's and torchvision's models
    assert keep("layer.fc.weight") and not keep("fc.weight")


@pytest.mark.parametrize("twin", [False, True])
def test_bytes_of_a_real_detector(twin):
    """Every mode of a small Mask R-CNN of the repository's config, and of its dense twin."""
    options = {
        "model.backbone.arch": dict(_delete_=True, dim=64, depth=2, num_heads=2),
        "model.backbone.global_blocks": (1,),
        "model.neck.in_channels": 64,
        "model.train_cfg.rcnn.sampler.num": 8,
        "model.roi_head.bbox_head.fc_out_channels": 16,
    }
    source = FromConfig("mask_rcnn_halvit_1x_coco.py", options, twin=twin)
    source.load()
    model = source.build()
    weights = 4 * sum(p.numel() for p in model.parameters())
    backbone = 4 * sum(p.numel() for p in model.backbone.parameters())
    found = footprint(source, Case(task="detection", size=(64, 96), classes=80))
    assert found["weights"] == found["gradients"] == found["all-reduced"] == [weights]
    assert found["weights, backbone"] == found["all-reduced, backbone"] == [backbone]
    assert backbone == 4 * (2 * (12 if twin else 6) * 64**2 + biases_and_embedding(twin))
    assert found["FLOPs"][0] > 1e8
    assert "bf16 error" not in found


def biases_and_embedding(twin: bool) -> int:
    """Numbers that are in no matrix of the two blocks of width 64."""
    norms = 2 * 2 * 2 * 64 + 2 * 64
    biases = 2 * (3 * 64 + 64 + 4 * 64 + 64)
    return norms + biases + 64 * (3 * 16 * 16 + 1) + 64 * 14 * 14
