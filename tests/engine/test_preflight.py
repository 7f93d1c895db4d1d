"""Checks before long work."""

import pytest
import torch
from archives import make_archives
from mmengine.config import ConfigDict
from tiny_runs import classifier_config, detector_config, make_coco, make_folders

from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.preflight import check_folder, preflight
from halvit_mm.errors import UserError


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture
def cfg(tmp_path, coco):
    cfg = load_config(detector_config(tmp_path / "config.py", coco))
    cfg.work_dir = str(tmp_path / "work")
    return cfg


@pytest.mark.parametrize("mode", ["train", "test"])
def test_a_sound_run_passes_and_leaves_an_empty_work_directory(cfg, tmp_path, mode):
    preflight(cfg, mode=mode)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(("mode", "part"), [("train", "optim_wrapper"), ("test", "test_cfg")])
def test_a_config_without_what_a_run_needs(cfg, mode, part):
    cfg[part] = None
    with pytest.raises(UserError, match=rf"config\.py has no {part}: a {mode} run needs it"):
        preflight(cfg, mode=mode)


def test_work_directory_below_a_file(cfg, tmp_path):
    (tmp_path / "file").touch()
    cfg.work_dir = str(tmp_path / "file" / "x")
    with pytest.raises(UserError, match=r"--work-dir .*file/x: cannot write there \(Not a dir"):
        preflight(cfg, mode="train")


def test_folder_without_permission():
    with pytest.raises(UserError, match=r"--out /proc/1/x: cannot write there \("):
        check_folder("/proc/1/x", "--out")


@pytest.mark.parametrize("mode", ["train", "test"])
def test_checkpoint_is_looked_at_first(cfg, tmp_path, mode):
    with pytest.raises(UserError, match=r"absent\.pth: there is no such checkpoint"):
        preflight(cfg, mode=mode, checkpoint=tmp_path / "absent.pth")
    assert not (tmp_path / "work").exists()
    torch.save({"a": torch.ones(100)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-30])
    with pytest.raises(UserError, match=r"cut\.pth: the checkpoint is cut off"):
        preflight(cfg, mode=mode, checkpoint=tmp_path / "cut.pth")
    preflight(cfg, mode=mode, checkpoint="https://example.org/model.pth")  # not from here


def test_weights_that_a_backbone_starts_from(cfg):
    cfg.merge_from_dict({"model.backbone.init_cfg.checkpoint": "absent.pth"})
    with pytest.raises(
        UserError, match=r"^model\.backbone\.init_cfg\.checkpoint=absent\.pth: there is no such"
    ):
        preflight(cfg, mode="train")
    preflight(cfg, mode="test")  # which does not initialise


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("train_dataloader.dataset.data_root", "absent", "train_dataloader.dataset.data_root"),
        ("val_dataloader.dataset.ann_file", "absent.json", "val_dataloader.dataset.ann_file"),
        ("model.bbox_head.num_classes", 5, "model.bbox_head.num_classes=5"),
    ],
)
def test_data_sets_are_checked(cfg, option, value, reason):
    cfg.merge_from_dict({option: value})
    with pytest.raises(UserError, match=reason):
        preflight(cfg, mode="train")


def test_a_test_looks_at_its_own_data_set_only(cfg):
    cfg.merge_from_dict({"train_dataloader.dataset.data_root": "absent"})
    preflight(cfg, mode="test")
    cfg.test_dataloader.dataset.data_root = "absent"
    with pytest.raises(UserError, match=r"test_dataloader\.dataset\.data_root"):
        preflight(cfg, mode="test")


def test_labels_of_mixed_images_are_as_long_as_there_are_classes(tmp_path):
    data = make_folders(tmp_path / "data", images=1)
    cfg = load_config(classifier_config(tmp_path / "config.py", data))
    cfg.work_dir = str(tmp_path / "work")
    cfg.data_preprocessor.num_classes = 1000
    preflight(cfg, mode="train")  # without mixing nothing looks at it
    cfg.model.train_cfg = dict(augments=dict(type="Mixup", alpha=0.2))
    with pytest.raises(
        UserError, match=r"data_preprocessor\.num_classes=1000 contradicts train_da"
    ):
        preflight(cfg, mode="train")
    cfg.data_preprocessor.num_classes = 2
    preflight(cfg, mode="train")


@pytest.fixture
def classifier(tmp_path):
    """A classifier's config with folders of two classes for training and for validation."""
    cfg = load_config(classifier_config(tmp_path / "config.py", tmp_path / "train"))
    cfg.work_dir = str(tmp_path / "work")
    for split in ("train", "val"):
        make_folders(tmp_path / split, images=2)
        cfg[f"{split}_dataloader"].dataset.data_root = str(tmp_path / split)
    preflight(cfg, mode="train")
    return cfg


def remove(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda val: (val / "dark").rename(val / "dusk"), r"lacks the 1 class \('dark'\) and has "),
        (lambda val: remove(val / "dark"), r"num_classes=2 contradicts val_.* 1 class \('light'\)"),
        (lambda val: (val / "dark/dark_1.png").write_bytes(b""), r"(?s)1 of the 4 .*: empty file"),
        (lambda val: val.rename(val.parent / "away"), r"/val does not exist: correct val_data"),
    ],
)
def test_validation_sets_are_compared_with_the_training_set(classifier, tmp_path, damage, message):
    damage(tmp_path / "val")
    with pytest.raises(UserError, match=message):
        preflight(classifier, mode="train")


def test_a_data_set_of_ours_and_its_head(classifier, tmp_path):
    """Missing, and of another number of classes than head and mixed labels."""
    make_archives(tmp_path / "packed")
    for split, name in (("train", "train"), ("val", "test")):
        classifier[f"{split}_dataloader"].dataset = ConfigDict(
            type="LabelledImages", data_root=str(tmp_path / "packed"), split=name
        )
    with pytest.raises(UserError, match=r"^model\.head\.num_classes=2 contradicts train_data"):
        preflight(classifier, mode="train")
    classifier.model.head.num_classes = 3
    preflight(classifier, mode="train")
    classifier.model.train_cfg = dict(augments=dict(type="Mixup", alpha=0.2))
    with pytest.raises(UserError, match=r"^data_preprocessor\.num_classes=2 contradicts train_da"):
        preflight(classifier, mode="train")
    classifier.data_preprocessor.num_classes = 3
    (tmp_path / "packed" / "insects_test.npz").unlink()
    with pytest.raises(UserError, match=r"^val_dataloader\.dataset: .*neither a folder test nor"):
        preflight(classifier, mode="train")
