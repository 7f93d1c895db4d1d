"""Pictures of a classifier's test, from archives and from folders."""

import pickle
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from archives import make_archives, pack, pixels
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image, ImageOps

from halvit_mm.datasets.image_archive import unpack_images
from halvit_mm.engine import launch
from halvit_mm.engine.config_errors import load_config

ORANGE = (250, 140, 10)


def config(root: Path, data: Path) -> Config:
    """A small model of three classes."""
    cfg = load_config(root / "configs/cifar10/small_halvit_cifar10.py")
    cfg.merge_from_dict({"model.head.num_classes": 3, "data_preprocessor.num_classes": 3})
    cfg.model.backbone.arch = dict(dim=24, depth=1, num_heads=1)
    cfg.model.head.in_channels = 24
    del cfg.test_dataloader.dataset["metainfo"]
    cfg.test_dataloader.dataset.data_root = str(data)
    return cfg


@pytest.fixture
def checkpoint(root: Path, tmp_path: Path) -> str:
    """Weights as they were drawn."""
    import mmpretrain.models  # noqa: F401

    cfg = config(root, tmp_path)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build({"data_preprocessor": cfg.data_preprocessor, **cfg.model})
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


def save(folder: Path, images: list[Image.Image]) -> list[bytes]:
    """Images as PNG files."""
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    return [(folder / f"{i}.png").read_bytes() for i in range(len(images))]


def noise(number: int) -> Image.Image:
    return Image.fromarray(np.resize(pixels(number), (32, 32, 3)))


@pytest.mark.parametrize("kind", ["archives", "folders"])
def test_pictures_show_colours_as_they_are(root, tmp_path, checkpoint, kind):
    """There is one of each image, also where folders have the same names."""
    data = make_archives(tmp_path / "archives", kind="png")
    files = save(tmp_path, [Image.new("RGB", (32, 32), ORANGE), noise(1), noise(2)])
    archives.replace(data / "insects_test.npz", **pack(files, [0, 1, 2]))
    names = ["00000_00000.png", "00001_00001.png", "00002_00002.png"]
    if kind == "folders":
        unpack_images(tmp_path / "archives", tmp_path / "folders")
        data = tmp_path / "folders"
        names = ["00000_00000.png", "00001_00000.png", "00002_00000.png"]
    out = tmp_path / "pictures"
    launch.test(config(root, data), checkpoint, work_dir=str(tmp_path / "w"), show_dir=str(out))
    assert sorted(path.name for path in out.iterdir()) == names
    with Image.open(out / names[0]) as picture:
        assert picture.size == (256, 256)  # room for the text
        below_the_text = np.asarray(picture.convert("RGB"))[200:]
    assert np.abs(below_the_text.mean((0, 1)) - ORANGE).max() < 2


def test_mirror_images_of_archives(root, tmp_path, checkpoint):
    """Their pipelines have no step that loads. The average over both views is the prediction."""
    data = make_archives(tmp_path / "archives", kind="png")
    scores = []
    for mirror, tta in ((False, False), (True, False), (False, True)):
        images = [noise(i) for i in range(6)]
        images = [ImageOps.mirror(image) for image in images] if mirror else images
        labels = [0, 1, 2, 0, 1, 2]
        archives.replace(data / "insects_test.npz", **pack(save(tmp_path, images), labels))
        out = tmp_path / "predictions.pkl"
        paths = dict(work_dir=str(tmp_path / "w"), out=str(out))
        launch.test(config(root, data), checkpoint, tta=tta, **paths)
        predictions = pickle.loads(out.read_bytes())
        assert [int(p["gt_label"]) for p in predictions] == labels
        assert [p["img_path"][-5:] for p in predictions] == [f"{i:05}" for i in range(6)]
        scores.append(torch.stack([p["pred_score"] for p in predictions]))
    plain, mirrored, both = scores
    assert not torch.allclose(plain, mirrored)
    torch.testing.assert_close(both, (plain + mirrored) / 2)
