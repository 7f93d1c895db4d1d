"""Bytes of weights, and real images to compare programs on."""

import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from halvit_mm.analysis.weightless import build_without_weights
from halvit_mm.deploy.sample_images import sample_images
from halvit_mm.deploy.sizes import dense_twin_bytes, weight_bytes
from halvit_mm.errors import UserError


def test_bytes_are_those_of_the_state_dict_each_tensor_once():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(3, 5).half())
    # 15 + 5 floats; four vectors of 5 and an integer of 8 bytes; half as much as the first.
    assert weight_bytes(model) == 80 + 80 + 8 + 40
    model[2].weight = model[0].weight
    model[0].register_buffer("scratch", torch.ones(100), persistent=False)
    assert weight_bytes(model) == 80 + 80 + 8 + 10
    assert weight_bytes(model.to("meta")) >= 80


def test_parts_of_one_storage_count_apart():
    model = nn.Module()
    whole = torch.ones(10)
    model.register_buffer("first", whole[:4])
    model.register_buffer("rest", whole[4:])
    assert weight_bytes(model) == 40


@pytest.mark.parametrize("name", ["halvit_tiny", "mini_deit_tiny", "half_resnet50"])
def test_the_dense_twin_is_the_same_model_without_sharing(root, name):
    cfg = Config.fromfile(root / f"configs/imagenet/{name}_imagenet.py")
    before = cfg.pretty_text
    dense = dense_twin_bytes(cfg)
    assert cfg.pretty_text == before
    own = build_without_weights(cfg)
    assert 0.45 < weight_bytes(own) / dense < 0.65
    cfg.model.backbone.update(own.backbone.dense_twin)
    assert weight_bytes(build_without_weights(cfg)) == dense
    assert dense_twin_bytes(cfg) is None  # it is its own twin


def test_the_photographs_that_come_with_a_package():
    images = sample_images(None)
    assert [(image.shape, image.dtype) for image in images] == [((427, 640, 3), np.uint8)] * 2
    assert len(sample_images(None, limit=1)) == 1


def test_images_of_a_folder_are_taken_from_all_over_it(tmp_path):
    for i in range(9):
        (tmp_path / f"class_{i // 3}").mkdir(exist_ok=True)
        Image.new("L", (4, 3), 10 * i).save(tmp_path / f"class_{i // 3}" / f"{i}.png")
    assert [int(image[0, 0, 0]) for image in sample_images(tmp_path, limit=4)] == [0, 20, 40, 60]
    assert len(sample_images(tmp_path, limit=100)) == 9
    assert sample_images(str(tmp_path), limit=1)[0].shape == (3, 4, 3)


def test_what_is_wrong_with_a_folder_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there is no such folder"):
        sample_images(tmp_path / "absent")
    with pytest.raises(UserError, match="there is no image"):
        sample_images(tmp_path)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"cut\.png"):
        sample_images(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="name a folder of images"):
        sample_images(None)
