"""Training and testing detectors and classifiers, within this process."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook
from tiny_runs import classifier_config, detector_config, make_coco, make_folders

from halvit_mm.checkpoints import read_state_dict
from halvit_mm.checkpoints.publish import publish
from halvit_mm.engine import launch, mixed_precision, processes
from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return make_coco(tmp_path_factory.mktemp("coco") / "data")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return make_folders(tmp_path_factory.mktemp("folders") / "data")


def detector(path: Path, coco: Path, *, dim: int = 32, **options):
    # The name of a run is its config's and the second's.
    return load_config(detector_config(path / f"{path.name}_{dim}.py", coco, dim=dim), options)


def classifier(path: Path, folders: Path, **options):
    return load_config(classifier_config(path / f"{path.name}.py", folders), options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, coco) -> Path:
    """A detector after one epoch."""
    folder = tmp_path_factory.mktemp("trained_detector")
    cfg = detector(folder, coco, **{"train_cfg.max_epochs": 1})
    launch.train(cfg, work_dir=str(folder))
    return folder / "epoch_1.pth"


@pytest.fixture(scope="module")
def classified(tmp_path_factory, folders) -> tuple[Path, dict, dict]:
    """A trained classifier's checkpoint, its averaged and its other weights."""
    folder = tmp_path_factory.mktemp("trained_classifier")
    cfg = classifier(folder, folders, custom_hooks=[dict(type="EMAHook", momentum=0.1)])
    runner = launch.train(cfg, work_dir=str(folder))
    (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    return folder / "epoch_10.pth", ema.ema_model.module.state_dict(), runner.model.state_dict()


# What is resumed from


def write(folder: Path, *names: str, noted: str | None = None) -> None:
    for name in names:
        torch.save({"a": torch.ones(100)}, folder / name)
    if noted:
        (folder / "last_checkpoint").write_text(noted)


def test_last_checkpoint_is_the_noted_one(tmp_path):
    assert launch.last_checkpoint(tmp_path) is None
    assert launch.last_checkpoint(tmp_path / "absent") is None
    write(tmp_path, "epoch_2.pth", "epoch_10.pth", noted=str(tmp_path / "epoch_2.pth"))
    assert launch.last_checkpoint(tmp_path) == tmp_path / "epoch_2.pth"


def test_last_checkpoint_in_a_folder_that_was_moved(tmp_path):
    write(tmp_path, "iter_5.pth", noted="/old/place/iter_5.pth")
    assert launch.last_checkpoint(tmp_path) == tmp_path / "iter_5.pth"


def test_last_checkpoint_after_a_kill_while_saving(tmp_path):
    # mmengine has removed epoch_8, not noted epoch_11 yet, and epoch_11 is cut off.
    write(tmp_path, "epoch_9.pth", "epoch_10.pth", "epoch_11.pth", noted="epoch_8.pth")
    (tmp_path / "epoch_11.pth").write_bytes((tmp_path / "epoch_11.pth").read_bytes()[:300])
    assert launch.last_checkpoint(tmp_path) == tmp_path / "epoch_10.pth"


def test_last_checkpoint_is_the_one_of_most_iterations(tmp_path):
    iterations = {"epoch_3.pth": 300, "iter_250.pth": 250, "mid_epoch.pth": 350, "other.pth": 999}
    for name, iteration in iterations.items():
        torch.save({"meta": dict(iter=iteration)}, tmp_path / name)
    write(tmp_path, "iter_900.pth")  # without a number inside
    assert launch.last_checkpoint(tmp_path) == tmp_path / "mid_epoch.pth"
    (tmp_path / "mid_epoch.pth").unlink()
    assert launch.last_checkpoint(tmp_path) == tmp_path / "epoch_3.pth"


# Classifiers


def test_classifier_from_training_to_published_and_averaged(tmp_path, folders, classified, capsys):
    checkpoint, average, raw = classified
    name = "backbone.blocks.0.ffn.weight"
    assert not torch.equal(average[name], raw[name])

    published = publish(checkpoint, tmp_path / "model.pth", ema=True)
    weights = read_state_dict(published)
    assert all(torch.equal(weights[key], value) for key, value in average.items())

    paths = dict(out=str(tmp_path / "p.pkl"), json_file=str(tmp_path / "m.json"))
    metrics = launch.test(
        classifier(tmp_path, folders), str(published), work_dir=str(tmp_path / "test"), **paths
    )
    assert metrics == json.loads((tmp_path / "m.json").read_text())
    assert metrics["accuracy/top1"] == 100
    predictions = pickle.loads((tmp_path / "p.pkl").read_bytes())
    assert [int(p["pred_label"]) for p in predictions] == [0] * 4 + [1] * 4
    assert "eta: " in capsys.readouterr().out.split("Epoch(test)")[1]


def test_classifier_with_mirror_images_and_pictures(tmp_path, folders, classified):
    cfg = classifier(tmp_path, folders)
    checkpoint = str(classified[0])
    work = str(tmp_path / "test")
    with pytest.raises(UserError, match="draw one view of an image: leave out --tta"):
        launch.test(cfg, checkpoint, work_dir=work, tta=True, show_dir=str(tmp_path / "s"))
    metrics = launch.test(classifier(tmp_path, folders), checkpoint, work_dir=work, tta=True)
    assert metrics["accuracy/top1"] == 100
    cfg = classifier(tmp_path, folders)
    launch.test(cfg, checkpoint, work_dir=work, show_dir=str(tmp_path / "pictures"))
    assert len(list((tmp_path / "pictures").iterdir())) == 8


# Other classes


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory) -> Path:
    """Images of one class more."""
    folder = make_folders(tmp_path_factory.mktemp("three") / "data")
    shutil.copytree(folder / "light", folder / "middle")
    return folder


def of_three_classes(path: Path, folders: Path, **options):
    counts = {"model.head.num_classes": 3, "data_preprocessor.num_classes": 3}
    return classifier(path, folders, **counts, **options)


@pytest.mark.parametrize(
    "run",
    [
        lambda cfg, checkpoint, **work: launch.train(cfg, load_from=checkpoint, **work),
        lambda cfg, checkpoint, **work: launch.train(
            cfg, load_from=checkpoint, allow_partial=True, **work
        ),
        lambda cfg, checkpoint, **work: launch.train(cfg, resume=checkpoint, **work),
        lambda cfg, checkpoint, **work: launch.test(cfg, checkpoint, allow_partial=True, **work),
    ],
    ids=["load", "load in part", "resume", "test"],
)
def test_a_checkpoint_for_other_classes_is_refused(tmp_path, three_classes, classified, run):
    """Although its head is less than 1% of the parameters."""
    cfg = of_three_classes(tmp_path, three_classes)
    with pytest.raises(UserError) as caught:
        run(cfg, str(classified[0]), work_dir=str(tmp_path))
    assert str(caught.value) == (
        f"{classified[0]}: the checkpoint is for 2 classes, model.head.num_classes=3; give one for "
        "the same classes, or train from it with --load-from FILE --new-head, which starts the "
        "layers that tell classes apart anew"
    )


@pytest.mark.parametrize("from_config", [False, True])
def test_a_new_head_on_old_weights(tmp_path, three_classes, classified, capsys, from_config):
    checkpoint = str(classified[0])
    options = {"train_cfg.max_epochs": 1, "optim_wrapper.optimizer.lr": 0.0}
    cfg = of_three_classes(tmp_path, three_classes, **options)
    if from_config:  # and with averages, which start from the checkpoint's
        cfg.load_from = checkpoint
        cfg.custom_hooks = [dict(type="EMAHook")]
    given = None if from_config else checkpoint
    runner = launch.train(cfg, work_dir=str(tmp_path), load_from=given, new_head=True)
    weights = read_state_dict(checkpoint)
    for name, value in runner.model.state_dict().items():
        if name.startswith("head"):
            assert len(value) == 3
        else:
            assert torch.equal(value, weights[name])
    output = capsys.readouterr().out
    assert "--new-head: 2 tensors start anew, head.fc.weight, head.fc.bias" in output
    assert f"100.0% of the parameters: loaded {len(weights) - 2} tensors, resized 0" in output


def test_a_new_head_for_as_many_classes(tmp_path, folders, classified):
    checkpoint = str(classified[0])
    cfg = classifier(tmp_path, folders, **{"train_cfg.max_epochs": 1})
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner = launch.train(cfg, work_dir=str(tmp_path), load_from=checkpoint, new_head=True)
    head = "head.fc.weight"
    assert not torch.equal(runner.model.get_parameter(head), read_state_dict(checkpoint)[head])


def test_what_is_started_from_is_said_once(tmp_path, folders, classified):
    checkpoint, work = str(classified[0]), dict(work_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"--load-from a\.pth and --resume b\.pth: give one"):
        launch.train(classifier(tmp_path, folders), load_from="a.pth", resume="b.pth", **work)
    with pytest.raises(UserError, match="--new-head needs --load-from FILE"):
        launch.train(classifier(tmp_path, folders), new_head=True, **work)
    # A job that may be started again: from the weights first, then from where it was.
    again = dict(load_from=checkpoint, new_head=True, resume="auto", **work)
    one = {"train_cfg.max_epochs": 1, "default_hooks.checkpoint.interval": 1}
    launch.train(classifier(tmp_path, folders, **one), **again)
    runner = launch.train(classifier(tmp_path, folders, **one), **again)
    assert runner.iter == 2 and runner.cfg.load_from == str(tmp_path / "epoch_1.pth")


# Detectors


def test_detector_with_mirror_images_pictures_and_predictions(tmp_path, coco, trained):
    cfg = detector(tmp_path, coco, **{"model.test_cfg.score_thr": 0.0})
    metrics = launch.test(
        cfg,
        str(trained),
        work_dir=str(tmp_path / "work"),
        out=str(tmp_path / "p.pkl"),
        show_dir=str(tmp_path / "pictures"),
        tta=True,
    )
    assert cfg.model.type == "InstanceTTAModel"
    assert 0 <= metrics["coco/bbox_mAP"] <= 1
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == [
        f"{i}.png" for i in range(4)
    ]
    predictions = pickle.loads((tmp_path / "p.pkl").read_bytes())
    assert [p["img_id"] for p in predictions] == [0, 1, 2, 3]
    assert all(len(p["pred_instances"]["bboxes"]) > 0 for p in predictions)


def test_checkpoint_of_another_architecture(tmp_path, coco, trained):
    options = {"model.test_cfg.score_thr": 0.0}
    work = str(tmp_path / "work")
    cfg = detector(tmp_path, coco, dim=48, **options)
    with pytest.raises(UserError, match=rf"{trained}: the checkpoint does not fit") as caught:
        launch.test(cfg, str(trained), work_dir=work)
    assert "of another shape (model's ≠ checkpoint's): backbone.pos_embed (1, 16, 48)" in str(
        caught.value
    )
    cfg = detector(tmp_path, coco, dim=48, **options)
    assert launch.test(cfg, str(trained), work_dir=work, allow_partial=True)
    cfg = detector(tmp_path, coco, dim=48, load_from=str(trained))
    with pytest.raises(UserError, match="the checkpoint does not fit"):
        launch.train(cfg, work_dir=work)


def test_resume_continues_or_says_that_there_is_nothing(tmp_path, coco, trained, capsys):
    work = tmp_path / "work"
    one = {"train_cfg.max_epochs": 1}
    launch.train(detector(tmp_path, coco, **one), work_dir=str(work), resume="auto")
    assert f"--resume: no checkpoint in {work}, training starts" in capsys.readouterr().out

    cfg = detector(tmp_path, coco, **{"train_cfg.max_epochs": 2})
    runner = launch.train(cfg, work_dir=str(work), resume=str(trained))
    assert runner.epoch == 2 and runner.iter == 4
    output = capsys.readouterr().out
    assert f"--resume: training continues from {trained}" in output
    assert "Epoch(train) [2][2/2]" in output and "Epoch(train) [1]" not in output
    steps = [state["step"].item() for state in runner.optim_wrapper.optimizer.state.values()]
    assert set(steps) == {4}


def test_resume_from_published_weights_is_refused(tmp_path, coco, trained):
    published = publish(trained, tmp_path / "model.pth")
    with pytest.raises(UserError, match="only weights, no state of a training to resume"):
        launch.train(detector(tmp_path, coco), work_dir=str(tmp_path), resume=str(published))


def test_a_classifiers_backbone_starts_a_detector(tmp_path, coco, classified, capsys):
    checkpoint = str(classified[0])
    options = {"train_cfg.max_epochs": 1, "model.backbone.init_cfg.checkpoint": checkpoint}
    options["optim_wrapper.optimizer.lr"] = 0.0
    runner = launch.train(detector(tmp_path, coco, **options), work_dir=str(tmp_path / "det"))
    name = "backbone.blocks.1.attn.weight"
    assert torch.equal(runner.model.get_parameter(name), read_state_dict(checkpoint)[name])
    assert "resized 2" in capsys.readouterr().out  # the position embedding and the class token


# Options


def test_guard_and_progress_are_added_once(tmp_path, coco, trained):
    cfg = detector(tmp_path, coco, custom_hooks=[dict(type="CheckpointGuardHook")])
    launch.test(cfg, str(trained), work_dir=str(tmp_path), allow_partial=True)
    assert cfg.custom_hooks == [
        dict(type="CheckpointGuardHook", min_fraction=0.0),
        dict(type="EvaluationProgressHook"),
    ]


def test_auto_scale_lr(tmp_path, coco, monkeypatch):
    seen = {}

    def stop(cfg):
        seen.update(cfg.auto_scale_lr)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "_build_runner", stop)
    cfg = detector(tmp_path, coco)
    with pytest.raises(KeyboardInterrupt):
        launch.train(cfg, work_dir=str(tmp_path), auto_scale_lr=True)
    assert seen == dict(enable=True, base_batch_size=4)
    cfg.auto_scale_lr = None
    with pytest.raises(UserError, match=r"--auto-scale-lr needs auto_scale_lr\.base_batch_size"):
        launch.train(cfg, work_dir=str(tmp_path), auto_scale_lr=True)


def test_mixed_precision_is_checked_before_training(tmp_path, coco, monkeypatch):
    monkeypatch.setattr(mixed_precision, "get_device", lambda: "cpu")
    with pytest.raises(UserError, match="--amp float16 needs a GPU and there is none"):
        launch.train(detector(tmp_path, coco), work_dir=str(tmp_path), amp="float16")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (dict(out="p.json"), r"--out p\.json: predictions are pickled"),
        (dict(json_file="."), r"--json \.: this is a folder; name a file"),
        (dict(json_file="/proc/1/x/m.json"), "--json /proc/1/x: cannot write there"),
        (dict(show_dir="/proc/1/x"), "--show-dir /proc/1/x: cannot write there"),
        (dict(launcher="mpi"), "--launcher mpi needs GPUs"),
    ],
)
def test_outputs_are_checked_before_testing(tmp_path, coco, trained, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "get_device", lambda: "cpu")
    with pytest.raises(UserError, match=reason):
        launch.test(detector(tmp_path, coco), str(trained), work_dir="work", **options)


def test_an_unknown_optimiser_is_named(tmp_path, coco):
    cfg = detector(tmp_path, coco, **{"optim_wrapper.optimizer.type": "Adamm"})
    with pytest.raises(UserError, match=r"optim_wrapper\.optimizer\.type=Adamm is unknown"):
        launch.train(cfg, work_dir=str(tmp_path))
