"""Detectors and classifiers say about files what tools/test.py measures."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools.mask import decode
from small_models import rewrite, save_initial
from tiny_runs import CLASSES

from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.launch import test as run_test
from halvit_mm.errors import UserError
from halvit_mm.inference import Classifier, Detector, load, read_image
from halvit_mm.inference.pipeline import build_pipeline


def outcome_of_test(
    config: Path, checkpoint: Path, folder: Path, options: dict | None = None
) -> list[dict]:
    """What tools/test.py --out writes."""
    cfg = load_config(config, options)
    run_test(cfg, str(checkpoint), work_dir=str(folder), out=str(folder / "out.pkl"))
    with (folder / "out.pkl").open("rb") as file:
        return pickle.load(file)


def test_a_detector_finds_what_the_test_loop_finds(detector_files, tmp_path):
    detector = Detector(*detector_files, score_threshold=0.0)
    samples = outcome_of_test(*detector_files, tmp_path)
    assert len(samples) == 4
    for sample in samples:
        found, expected = detector(sample["img_path"]), sample["pred_instances"]
        assert len(found) == 10
        assert found.size == tuple(sample["ori_shape"])
        assert np.abs(found.boxes - expected["bboxes"].numpy()).max() < 1e-5
        assert np.abs(found.scores - expected["scores"].numpy()).max() < 1e-6
        assert (found.labels == expected["labels"].numpy()).all()
        assert found.masks is None
        assert found.classes == CLASSES


def test_a_classifier_says_what_the_test_loop_says(classifier_files, tmp_path):
    classifier = Classifier(*classifier_files, batch_size=3)
    samples = outcome_of_test(*classifier_files, tmp_path)
    results = classifier([sample["img_path"] for sample in samples])
    assert len(results) == 8
    for sample, result in zip(samples, results, strict=True):
        assert np.abs(result.scores - sample["pred_score"].numpy()).max() < 1e-6
        assert result.size == (32, 32)
        assert result.top(1)[0][0] == CLASSES[int(sample["pred_label"])]


def test_boxes_and_masks_of_photographs(root, test_data, tmp_path):
    """Mask R-CNN on photographs of many sizes, resized by its pipeline; masks in full size."""
    config = root / "configs/nuclei/mask_rcnn_halvit_small_nuclei.py"
    coco = test_data / "coco_by"
    options = {
        "model.roi_head.bbox_head.num_classes": 80,
        "model.roi_head.mask_head.num_classes": 80,
        "model.test_cfg.rcnn.score_thr": 0.0,
        "model.test_cfg.rcnn.max_per_img": 30,
        "test_dataloader.batch_size": 1,
        "test_dataloader.num_workers": 0,
        "test_dataloader.persistent_workers": False,
        "test_dataloader.dataset.data_root": str(coco),
        "test_dataloader.dataset.ann_file": "annotations/instances_val.json",
        "test_dataloader.dataset.data_prefix": dict(img="val"),
        "test_dataloader.dataset.metainfo": None,
        "test_dataloader.dataset.indices": 3,
        "test_evaluator.ann_file": str(coco / "annotations/instances_val.json"),
    }
    checkpoint = save_initial(
        config, tmp_path / "a.pth", classes=tuple(map(str, range(80))), cfg_options=options
    )
    samples = outcome_of_test(config, checkpoint, tmp_path, options)
    detector = Detector(config, checkpoint, score_threshold=0.0, cfg_options=options)
    assert len(samples) == 3
    sizes = set()
    for sample in samples:
        found, expected = detector(sample["img_path"]), sample["pred_instances"]
        assert len(found) == len(expected["scores"]) > 0
        assert np.abs(found.boxes - expected["bboxes"].numpy()).max() < 1e-5
        assert np.abs(found.scores - expected["scores"].numpy()).max() < 1e-6
        assert (found.labels == expected["labels"].numpy()).all()
        masks = np.stack([decode(mask) for mask in expected["masks"]])
        assert found.masks.dtype == bool
        assert found.masks.shape == (len(found), *found.size)
        assert (found.masks == masks).all()
        sizes.add(found.size)
    assert len(sizes) > 1


def test_a_threshold_only_leaves_out(detector_files):
    """The model is told of it, so that it draws fewer masks; what stays must be the same."""
    config, checkpoint = detector_files
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    everything = Detector(config, checkpoint, score_threshold=0.0)(picture)
    assert len(everything) == 10
    threshold = float(everything.scores[4])
    some = Detector(config, checkpoint, score_threshold=threshold)
    assert some.loaded.model.bbox_head.test_cfg.score_thr == pytest.approx(threshold, abs=1e-3)
    found = some(picture)
    assert 5 <= len(found) < 10
    assert (found.scores >= threshold).all()
    assert (found.boxes == everything.boxes[: len(found)]).all()
    assert (np.diff(found.scores) <= 0).all()


def test_a_turned_photograph_has_boxes_in_the_upright_picture(detector_files, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    detector = Detector(*detector_files, score_threshold=0.0)
    found, upright = detector([tmp_path / "turned.png", np.rot90(pixels, -1).copy()])
    assert found.size == (60, 40)
    assert (found.boxes == upright.boxes).all()
    assert found.boxes[:, 3].max() > 40


def test_one_image_gives_one_result_and_a_list_a_list(detector_files):
    detector = Detector(*detector_files, score_threshold=0.0, batch_size=2)
    pictures = [
        np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        for seed in range(3)
    ]
    results = detector(pictures)
    assert isinstance(results, list)
    assert detector([]) == []
    for picture, result in zip(pictures, results, strict=True):
        alone = detector(picture)
        assert np.abs(alone.boxes - result.boxes).max() < 1e-3
        assert np.abs(alone.scores - result.scores).max() < 1e-5


def test_classifiers_do_not_pad_images_of_a_batch(classifier_files):
    """Without resizing, images of several sizes go through one after the other."""
    config = Config.fromfile(classifier_files[0])
    config.test_dataloader.dataset.pipeline.insert(1, dict(type="Resize", scale_factor=1.0))
    classifier = Classifier(config, classifier_files[1], batch_size=3)
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (48, 32), (32, 32)]
    pictures = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    results = classifier(pictures)
    for picture, result in zip(pictures, results, strict=True):
        assert result.size == picture.shape[:2]
        assert np.abs(classifier(picture).scores - result.scores).max() < 1e-6
    assert np.abs(results[0].scores - results[2].scores).max() > 1e-4


def test_images_of_any_size_come_to_the_size_of_a_set_of_one_size(classifier_files):
    """CIFAR-10's pipeline resizes nothing: a photograph would have a hundred thousand patches."""
    classifier = Classifier(*classifier_files)
    y, x = np.mgrid[:32, :32]
    small = np.stack([8 * x, 8 * y, 4 * (x + y)], axis=2).astype(np.uint8)
    large = np.asarray(Image.fromarray(small).resize((320, 320), Image.Resampling.NEAREST))
    wide = np.pad(large, ((0, 0), (300, 300), (0, 0)), mode="edge")
    # The middle of the wide one is the large one, and the averages of its squares are the small.
    for picture in (large, wide):
        packed = classifier.loaded.pipeline(
            dict(img=picture[..., ::-1], img_shape=picture.shape[:2], ori_shape=picture.shape[:2])
        )
        pixels = packed["inputs"].permute(1, 2, 0).numpy()[..., ::-1]
        assert pixels.shape == (32, 32, 3)
        assert np.abs(pixels.astype(int) - small).max() < 8
    assert (
        classifier.loaded.pipeline(dict(img=small, img_shape=(32, 32), ori_shape=(32, 32)))[
            "inputs"
        ]
        .permute(1, 2, 0)
        .numpy()
        == small
    ).all()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cifar10/small_halvit_cifar10.py", 32),
        ("cifar10/half_resnet50_cifar10.py", 32),
        ("tinyimagenet/halvit_tinyimagenet.py", 64),
        ("tinyimagenet/small_halvit_tinyimagenet.py", 48),
        ("imagenet/mini_swin_tiny_imagenet.py", 224),
        ("imagenet/mini_deit_base_384_imagenet.py", 384),
    ],
)
def test_pipelines_of_classifiers_end_at_their_size(root, name, size):
    pipeline = build_pipeline(load_config(root / "configs" / name), task="classification")
    image = np.zeros((300, 500, 3), np.uint8)
    packed = pipeline(dict(img=image, img_shape=(300, 500), ori_shape=(300, 500), img_path=""))
    assert tuple(packed["inputs"].shape) == (3, size, size)


def test_float_images_stay_float(classifier_files):
    config = Config.fromfile(classifier_files[0])
    config.test_dataloader.dataset.pipeline[0].to_float32 = True
    scores = Classifier(config, classifier_files[1])(np.full((32, 32, 3), 7, np.uint8)).scores
    same = Classifier(*classifier_files)(np.full((32, 32, 3), 7, np.uint8)).scores
    assert np.abs(scores - same).max() < 1e-6


def test_load_picks_by_the_config(detector_files, classifier_files):
    assert isinstance(load(*detector_files), Detector)
    assert isinstance(load(*classifier_files), Classifier)
    with pytest.raises(UserError, match="weights alone are no model; name their config as well"):
        load(None, detector_files[1])


def test_the_other_kind_is_refused(detector_files, classifier_files):
    with pytest.raises(UserError, match="is a config for detection, not for classification"):
        Classifier(*detector_files)
    with pytest.raises(UserError, match="is a config for classification, not for detection"):
        Detector(*classifier_files)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(batch_size=0), "a batch size of 0 holds no image"),
        (dict(score_threshold=1.5), "a score threshold of 1.5 is not from 0 to 1"),
        (dict(device="gpu"), "there is no such device"),
    ],
)
def test_options_that_make_no_sense(detector_files, options, words):
    with pytest.raises(UserError, match=words):
        Detector(*detector_files, **options)


def test_an_image_that_cannot_be_read_is_named(detector_files, tmp_path):
    detector = Detector(*detector_files)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.jpg: the file is empty"):
        detector(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"array \(4, 4\)"):
        detector([np.zeros((4, 4), np.uint8)])


def test_an_image_that_the_pipeline_makes_nothing_of(detector_files):
    """Resized to 64 pixels, 20,000 × 20 would be no pixel high."""
    with pytest.raises(UserError, match="an image of 20000 × 20 pixels does not go through"):
        Detector(*detector_files)(np.zeros((20, 20_000, 3), np.uint8))


def test_the_smallest_image(detector_files, classifier_files):
    dot = np.full((1, 1, 3), 200, np.uint8)
    found = Detector(*detector_files, score_threshold=0.0)(dot)
    assert found.size == (1, 1)
    assert found.boxes.min() >= 0
    assert found.boxes.max() <= 1
    assert Classifier(*classifier_files)(dot).scores.sum() == pytest.approx(1, abs=1e-5)


def test_too_little_memory_is_one_sentence(detector_files, monkeypatch):
    detector = Detector(*detector_files)

    def fail(batch):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried")

    monkeypatch.setattr(detector.loaded.model, "test_step", fail)
    with pytest.raises(UserError, match="not enough memory for 1 image of this size at once"):
        detector(np.zeros((64, 64, 3), np.uint8))


def test_checkpoints_with_averaged_weights_give_these(detector_files, tmp_path):
    """mmengine keeps the average in `state_dict` and what was trained beside it."""
    config, checkpoint = detector_files

    def add(content):
        content["ema_state_dict"] = {k: v * 0 for k, v in content["state_dict"].items()}

    picture = read_image(next((config.parent / "data/images").iterdir()))
    found = Detector(config, rewrite(checkpoint, tmp_path / "a.pth", add), score_threshold=0.0)
    assert (
        found(picture).scores == Detector(*detector_files, score_threshold=0.0)(picture).scores
    ).all()
