"""Calibration images: prepared as testing prepares them, chosen evenly, refused where unfit."""

import logging
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from tiny_runs import classifier_config, detector_config, make_coco, make_folders
from torch import Tensor

from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError
from halvit_mm.halving.calibration import calibration_images, choose

MEAN, STD = [125.3, 122.9, 113.9], [62.5, 61.9, 66.5]  # of configs/_base_/datasets/cifar10.py


@pytest.fixture
def classifier(tmp_path: Path) -> Config:
    data = make_folders(tmp_path / "data", images=5)
    return load_config(classifier_config(tmp_path / "classifier.py", data))


@pytest.fixture
def detector(tmp_path: Path) -> Config:
    data = make_coco(tmp_path / "coco")
    return load_config(detector_config(tmp_path / "detector.py", data))


def cifar(root: Path, data: Path, **options: object) -> Config:
    """The CIFAR-10 config of the repository on other data."""
    cfg = load_config(root / "configs/cifar10/small_halvit_cifar10.py")
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        cfg[name].dataset.data_root = str(data)
    cfg.merge_from_dict(options)
    return cfg


def in_order(images: Tensor) -> Tensor:
    """Images in an order that does not depend on the one they came in."""
    return torch.stack(sorted(images, key=lambda image: image.flatten()[:100].tolist()))


def fed_by_runner(cfg: Config, work_dir: Path) -> Tensor:
    """What mmengine's runner gives to the backbone when it tests."""
    cfg.work_dir = str(work_dir)
    runner = Runner.from_cfg(cfg)
    fed = []
    runner.model.backbone.register_forward_pre_hook(lambda _, args: fed.append(args[0].cpu()))
    runner.test()
    return torch.cat(fed)


def test_what_a_classifier_is_fed_when_it_is_tested(classifier: Config, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    images = calibration_images(classifier, folder=folder, count=10)
    assert images.shape == (10, 3, 32, 32) and images.dtype == torch.float32
    fed = fed_by_runner(classifier, tmp_path / "work")
    assert torch.equal(in_order(images), in_order(fed))
    # By hand: this config leaves blue first, as OpenCV reads it.
    path = min(folder.rglob("*.png"))
    pixels = torch.from_numpy(np.array(Image.open(path)))[..., [2, 1, 0]].permute(2, 0, 1)
    assert any(torch.equal(image, (pixels.float() - 128) / 64) for image in images)


def test_what_a_detector_is_fed_when_it_is_tested(detector: Config, tmp_path: Path) -> None:
    images = calibration_images(detector, folder=tmp_path / "coco", count=4)
    assert images.shape == (4, 3, 64, 64)
    fed = fed_by_runner(detector, tmp_path / "work")
    assert torch.equal(in_order(images), in_order(fed))
    own = calibration_images(detector, folder=None, count=4)
    assert torch.equal(in_order(own), in_order(fed))  # its training set has the same images


def test_real_archives_and_their_folders(test_data: Path, tmp_path: Path, root: Path) -> None:
    """CIFAR-10, whose pipeline has nothing to load, red first: by the runner and by hand."""
    from halvit_mm.datasets.image_archive import unpack_images

    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):  # the training split holds the test images
        (data / f"a_{split}.npz").symlink_to(test_data / "tiny" / "cifar10_tiny_test.npz")
    cfg = cifar(root, data)
    own = in_order(calibration_images(cfg, folder=None, count=100))
    assert torch.equal(own, in_order(fed_by_runner(cfg, tmp_path / "work")))
    unpack_images(data / "a_test.npz", tmp_path / "out")
    files = in_order(calibration_images(cfg, folder=tmp_path / "out", count=100))
    assert torch.equal(files, own)
    pixels = np.array(Image.open(min((tmp_path / "out").rglob("*.jpg"))), dtype=np.float64)
    by_hand = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)
    nearest = min((image - by_hand).abs().max() for image in files)
    assert nearest < 0.1  # decoders may differ by a few of 255 levels


def test_real_images_at_224(test_data: Path, root: Path) -> None:
    """ImageNet's pipeline, which loads, resizes and crops; the photographs have many sizes."""
    cfg = load_config(root / "configs/imagenet/halvit_nano_imagenet.py")
    folder = test_data / "tiny" / "imagenet10"
    images = calibration_images(cfg, folder=folder, count=10)
    assert images.shape == (10, 3, 224, 224)
    assert images.abs().max() < 3 and 0.3 < images.std() < 2
    small = calibration_images(cfg, folder=folder, count=10, img_size=(64, 96))
    assert small.shape == (10, 3, 64, 96)
    means = [image.mean() for image in (images, small)]
    assert abs(means[0] - means[1]) < 0.02


def test_only_the_chosen_images_of_an_archive_are_decoded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halvit_mm.datasets import labelled_images

    decoded = []
    decode = labelled_images._decode
    monkeypatch.setattr(
        labelled_images, "_decode", lambda *args: decoded.append(args) or decode(*args)
    )
    data = archives.make_archives(tmp_path / "insects", kind="png")
    cfg = cifar(root, data)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        cfg[name].dataset.metainfo.classes = archives.CLASSES
    images = calibration_images(cfg, folder=None, count=3)
    assert images.shape == (3, 3, 8, 9) and len(decoded) == 3


def test_annotations_are_not_asked_for(detector: Config, tmp_path: Path) -> None:
    """Of a training set or a folder, with wrappers around the set, several sets and no labels."""
    inner = detector.train_dataloader.dataset
    detector.train_dataloader.dataset = dict(
        type="RepeatDataset", times=3, dataset=dict(type="ConcatDataset", datasets=[inner, inner])
    )
    images = calibration_images(detector, folder=None, count=8)
    assert images.shape == (8, 3, 64, 64)
    # These need more than the images' folder.
    detector.test_dataloader.dataset.pipeline.insert(1, dict(type="LoadPanopticAnnotations"))
    one = calibration_images(detector, folder=tmp_path / "coco" / "images", count=4)
    assert torch.equal(in_order(images)[::2], in_order(one))  # each image twice
    assert torch.equal(in_order(images)[1::2], in_order(one))


def test_images_of_several_sizes_need_a_size(detector: Config, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.new("RGB", (40, 20), "red").save(folder / "wide.png")
    Image.new("L", (20, 40), 30).save(folder / "deep" / "high.JPG")
    Image.new("RGBA", (30, 30), "blue").save(folder / "deep" / "square.webp")
    with pytest.raises(UserError, match=r"several sizes .*64 × \d+.* by --img-size"):
        calibration_images(detector, folder=folder, count=3)
    images = calibration_images(detector, folder=folder, count=3, img_size=48)
    assert images.shape == (3, 3, 48, 48)
    # Plain pictures stay plain; red, in the BGR order of this config, is the last channel.
    assert images.flatten(2).std(dim=2).max() < 0.05
    red = ((torch.tensor([0, 0, 255.0]) - 128) / 64).view(3, 1, 1)
    assert any((image - red).abs().max() < 1e-6 for image in images)
    padded = calibration_images(detector, folder=folder, count=3, img_size=(40, 48))
    assert padded.shape == (3, 3, 48, 48) and (padded[:, :, 40:] == 0).all()


def test_the_choice_is_even_and_follows_the_seed(classifier: Config, tmp_path: Path) -> None:
    for available, count in ((1000, 7), (10, 10), (11, 10), (3, 2), (5, 1)):
        for seed in range(20):
            numbers = choose(available, count, seed)
            assert len(set(numbers)) == count and numbers == choose(available, count, seed)
            ends = [part * available // count for part in range(count + 1)]
            parts = zip(ends, sorted(numbers), ends[1:], strict=False)
            assert all(start <= number < end for start, number, end in parts)
    assert choose(1000, 7, 0) != choose(1000, 7, 1)
    assert choose(1000, 7, 0) != sorted(choose(1000, 7, 0))

    folder = tmp_path / "data"
    one, same, other = (
        calibration_images(classifier, folder=folder, count=6, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_fewer_images_than_wanted_are_all_taken(
    classifier: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = []
    monkeypatch.setattr("halvit_mm.halving.calibration.print_log", lambda *args: notes.append(args))
    assert len(calibration_images(classifier, folder=tmp_path / "data", count=10)) == 10
    assert not notes
    assert len(calibration_images(classifier, folder=tmp_path / "data", count=11)) == 10
    ((text, _, level),) = notes
    assert "has 10 images, fewer than the 11 wanted" in text and level == logging.WARNING


def test_folders_that_are_refused(classifier: Config, tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            calibration_images(classifier, folder=folder, count=4)
        return str(caught.value)

    nowhere = tmp_path / "nowhere"
    assert refusal(nowhere) == f"--calib {nowhere}: this does not exist; name a folder of images"
    file = next((tmp_path / "data").rglob("*.png"))
    assert "is not a folder; name a folder of images" in refusal(file)
    empty = tmp_path / "empty"
    (empty / "deep").mkdir(parents=True)
    (empty / "deep" / "notes.txt").write_text("no image")
    assert "there is no image (.bmp, .jpeg, .jpg, .png" in refusal(empty)

    data = tmp_path / "data"
    content = file.read_bytes()
    (data / "cut.png").write_bytes(content[: len(content) // 2])
    assert f"images in it cannot be read: {data}/cut.png (" in refusal(data)
    assert "more" not in refusal(data) and "replace or remove them" in refusal(data)
    for i in range(4):
        (data / f"text_{i}.jpg").write_text("no image")
    assert "text_0.jpg (" in refusal(data) and "text_2.jpg" not in refusal(data)
    assert " and 2 more; replace" in refusal(data)


def test_an_image_that_is_whole_only_at_its_ends(classifier: Config, tmp_path: Path) -> None:
    data = tmp_path / "odd"
    data.mkdir()
    (data / "odd.jpg").write_bytes(b"\xff\xd8\xff" + bytes(500) + b"\xff\xd9")
    with pytest.raises(UserError, match=r"odd\.jpg \(it cannot be decoded\); replace or remove"):
        calibration_images(classifier, folder=data, count=4)


def test_configs_that_are_refused(classifier: Config, root: Path, tmp_path: Path) -> None:
    def refusal(cfg: Config, folder: Path | None = None, **options: object) -> str:
        with pytest.raises(UserError) as caught:
            calibration_images(cfg, folder=folder, **{"count": 4, **options})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refusal(classifier, count=0).startswith("--images 0: at least one image is needed")
    assert refusal(classifier, img_size=0).startswith("--img-size 0: ")
    absent = refusal(cifar(root, tmp_path / "absent"))
    assert f"{tmp_path}/absent does not exist" in absent
    assert absent.endswith("; or give images by --calib FOLDER")
    unknown = Config(classifier.to_dict())
    unknown.test_dataloader.dataset.pipeline = [dict(type="LoadImageFromFiel")]
    assert "LoadImageFromFiel" in refusal(unknown, tmp_path / "data")

    without = Config(classifier.to_dict())
    without.train_dataloader = None
    assert refusal(without).endswith(
        "has no train_dataloader.dataset: give images by --calib FOLDER"
    )
    assert len(calibration_images(without, folder=tmp_path / "data", count=4)) == 4
    without.test_dataloader = None
    assert len(calibration_images(without, folder=tmp_path / "data", count=4)) == 4  # as validating
    without.val_dataloader = None
    assert "has no test_dataloader" in refusal(without, tmp_path / "data")


def test_the_config_stays_as_it_is(classifier: Config, tmp_path: Path) -> None:
    before = classifier.pretty_text
    calibration_images(classifier, folder=None, count=2)
    calibration_images(classifier, folder=tmp_path / "data", count=2)
    assert classifier.pretty_text == before
