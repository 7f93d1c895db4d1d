"""Loading: what fits gives a model that is ready, what does not gives one sentence."""

import pytest
import torch
from small_models import rewrite
from tiny_runs import CLASSES, classifier_config, detector_config

from halvit_mm.errors import UserError
from halvit_mm.inference import load_model
from halvit_mm.inference.models import find_device


def test_a_loaded_model_is_the_one_that_was_saved(detector_files):
    config, checkpoint = detector_files
    loaded = load_model(config, checkpoint)
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    own = loaded.model.state_dict()
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[name], saved[name]) for name in own)
    assert not any(module.training for module in loaded.model.modules())
    assert (loaded.task, loaded.classes) == ("detection", CLASSES)
    assert loaded.cfg.filename == str(config)


def test_a_classifier_is_known_as_one(classifier_files):
    loaded = load_model(*classifier_files)
    assert (loaded.task, loaded.classes) == ("classification", CLASSES)
    # The config names these beside the model, as mmpretrain's do.
    assert loaded.model.data_preprocessor.mean.flatten().tolist() == [128.0] * 3


def test_untrained_models_must_be_asked_for(detector_files):
    config, _ = detector_files
    assert load_model(config, None, untrained=True).classes == CLASSES
    with pytest.raises(UserError, match="no checkpoint is given"):
        load_model(config, None)


def test_untrained_models_say_nothing(detector_files, capfd):
    load_model(detector_files[0], None, untrained=True)
    output, errors = capfd.readouterr()
    assert "Init" not in output + errors


def test_options_change_the_config(detector_files):
    config, checkpoint = detector_files
    loaded = load_model(config, checkpoint, cfg_options={"model.test_cfg.max_per_img": 3})
    assert loaded.model.bbox_head.test_cfg.max_per_img == 3


@pytest.mark.parametrize("key", ["classes", "CLASSES"])
def test_names_of_classes_come_from_the_checkpoint_first(detector_files, tmp_path, key):
    config, checkpoint = detector_files

    def rename(content):
        content["meta"]["dataset_meta"] = {key: ["night", "day"]}

    loaded = load_model(config, rewrite(checkpoint, tmp_path / "a.pth", rename))
    assert loaded.classes == ("night", "day")


def test_names_of_classes_come_from_the_config_then_and_then_from_their_numbers(
    detector_files, classifier_files, tmp_path
):
    def forget(content):
        content["meta"] = {}

    config, checkpoint = detector_files
    assert load_model(config, rewrite(checkpoint, tmp_path / "a.pth", forget)).classes == CLASSES
    config, checkpoint = classifier_files
    bare = rewrite(checkpoint, tmp_path / "b.pth", forget)
    assert load_model(config, bare).classes == ("0", "1")


def test_default_classes_of_a_data_set_need_no_data(root):
    config = root / "configs/retinanet_halvit_1x_coco.py"
    classes = load_model(config, None, untrained=True).classes
    assert (len(classes), classes[0], classes[-1]) == (80, "person", "toothbrush")


def test_a_checkpoint_for_other_classes(detector_files, tmp_path):
    config, checkpoint = detector_files
    with pytest.raises(UserError) as caught:
        load_model(config, checkpoint, cfg_options={"model.bbox_head.num_classes": 5})
    assert str(caught.value) == (
        f"{checkpoint}: the checkpoint is for 2 classes, but {config} has "
        "model.bbox_head.num_classes=5; give the config that it was trained with"
    )


def test_a_checkpoint_of_another_backbone(detector_files):
    config, checkpoint = detector_files
    with pytest.raises(UserError) as caught:
        load_model(config, checkpoint, cfg_options={"model.backbone.arch.depth": 3})
    first, counts, missing = str(caught.value).split("\n")
    assert first.startswith(f"{checkpoint}: the checkpoint is of another model than {config}")
    assert "missing 7" not in counts or "of another shape 0" in counts
    assert missing.startswith("  missing: backbone.blocks.2.")


def test_a_checkpoint_that_has_more_than_the_model(detector_files):
    """All of the model's weights are there, and the model is another one still."""
    config, checkpoint = detector_files
    with pytest.raises(UserError, match=r"unexpected: backbone\.blocks\.1"):
        load_model(config, checkpoint, cfg_options={"model.backbone.arch.depth": 1})


def test_a_single_missing_tensor_is_too_much(detector_files, tmp_path):
    config, checkpoint = detector_files
    name = "bbox_head.retina_cls.bias"
    cut = rewrite(checkpoint, tmp_path / "a.pth", lambda c: c["state_dict"].pop(name))
    with pytest.raises(UserError, match=f"missing: {name}"):
        load_model(config, cut)


def test_a_position_embedding_of_another_size_is_resampled(classifier_files):
    config, checkpoint = classifier_files
    loaded = load_model(config, checkpoint, cfg_options={"model.backbone.img_size": 64})
    assert loaded.model.backbone.pos_embed.shape[1] > 4


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no such checkpoint; check the path"),
        (b"", "this is not a checkpoint of PyTorch; give a .pth"),
        (b"weights\n" * 9, "this is not a checkpoint of PyTorch; give a .pth"),
        (b"PK\x03\x04" + b"x" * 99, "the checkpoint is cut off"),
    ],
)
def test_files_that_are_no_checkpoints(detector_files, tmp_path, content, sentence):
    file = tmp_path / "a.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_model(detector_files[0], file)
    assert str(caught.value).startswith(f"{file}: {sentence}")


def test_configs_that_cannot_be_run(tmp_path, detector_files, classifier_files):
    _, checkpoint = detector_files

    def refuse(text, words):
        config = tmp_path / "config.py"
        config.write_text(text)
        with pytest.raises(UserError, match=words):
            load_model(config, checkpoint)

    refuse("a = 1", "has no model")
    refuse("model = dict(type='RetinaNet')", "default_scope=None")
    refuse("default_scope = 'mmdet'\nmodel = dict(type='RetinaNot')", "RetinaNot")
    text = detector_files[0].read_text()
    refuse(text + "\ntest_dataloader = val_dataloader = None\n", "has no test_dataloader")
    backbone = text[text.index("backbone=") + 9 : text.index("neck=")].strip().rstrip(",")
    refuse(
        f"default_scope = 'mmdet'\nimport halvit_mm\nmodel = {backbone}",
        "neither a detector nor a classifier",
    )
    grey = (
        classifier_files[0]
        .read_text()
        .replace('type="LoadImageFromFile"', 'type="LoadImageFromFile", color_type="grayscale"')
    )
    refuse(grey, "loads images as grayscale")
    with pytest.raises(UserError, match=r"absent\.py: there is no such config"):
        load_model(tmp_path / "absent.py", checkpoint)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "meta", "mps"])
def test_unknown_devices(name):
    with pytest.raises(UserError, match="there is no such device; give cpu, cuda or cuda:0"):
        find_device(name)


def test_missing_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: this machine has no GPU that PyTorch can"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda").type == "cuda"
    assert find_device("cuda:1").index == 1
    with pytest.raises(UserError, match="--device cuda:2: this machine has GPUs 0 to 1 only"):
        find_device("cuda:2")


def test_configs_written_for_other_widths_are_told_apart(tmp_path, detector_files):
    config = detector_config(tmp_path / "config.py", tmp_path, dim=64)
    with pytest.raises(UserError, match=r"of another shape"):
        load_model(config, detector_files[1])
    config = classifier_config(tmp_path / "config.py", tmp_path)
    with pytest.raises(UserError, match=r"missing: backbone\.cls_token, head\.fc"):
        load_model(config, detector_files[1])
