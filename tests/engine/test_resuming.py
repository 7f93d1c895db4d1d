"""Training interrupted within an epoch and resumed, against the same without interruption."""

import re
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from killing import differences
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, amp
from recording import batches_of
from tiny_runs import classifier_config, make_folders
from torch.utils.data import BatchSampler, DataLoader, Dataset

from halvit_mm.engine import launch, mixed_precision
from halvit_mm.engine.batches import RemainingBatches
from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.resuming import ResumableEpochTrainLoop, ResumableIterTrainLoop
from halvit_mm.engine.saving import WholeFilesBackend
from halvit_mm.errors import UserError

EMA = dict(type="EMAHook", momentum=0.1)
SCHEDULES = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type="CosineAnnealingLR", T_max=3, by_epoch=True, convert_to_iter_based=True),
]
#: Random pictures, which need random numbers in the processes that load them.
PIPELINE = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=32),
    dict(type="RandomFlip", prob=0.5),
    dict(type="ColorJitter", brightness=0.5),
    dict(type="PackInputs"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Ten images: three batches an epoch, of four, four and two."""
    return make_folders(tmp_path_factory.mktemp("folders") / "data", images=5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The order of sums is always the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(
    work: Path,
    folders: Path,
    *,
    resume: str | None = None,
    end_after: int | None = None,
    hooks: tuple = (EMA,),
    checkpoint_interval: int | None = None,
    **options,
) -> Runner | None:
    """Trains for three epochs, of which the first iterations only if ``end_after`` says so."""
    name = f"{work.name}_{end_after}_{resume is not None}"  # of the run, which must be its own
    hooks = [dict(type="RecordImagesHook", file=str(work / "seen")), *hooks]
    if end_after:
        hooks.append(dict(type="EndAfterHook", iterations=end_after))
    options = {
        "train_cfg": dict(by_epoch=True, max_epochs=3),
        "model.backbone.drop_path_rate": 0.5,
        "train_dataloader.dataset.pipeline": PIPELINE,
        "val_cfg": None,
        "val_dataloader": None,
        "val_evaluator": None,
        "default_hooks.checkpoint.interval": 1,
        "param_scheduler": SCHEDULES,
        "randomness": dict(seed=3),
        "custom_hooks": hooks,
        **options,
    }
    work.mkdir(exist_ok=True)
    # mmengine takes its `_delete_` out of the dicts that it is given.
    cfg = load_config(classifier_config(work / f"{name}.py", folders, dim=16), deepcopy(options))
    try:
        return launch.train(
            cfg,
            work_dir=str(work),
            resume=resume,
            checkpoint_interval=checkpoint_interval,
        )
    except InterruptedError:
        return None


def assert_same_end(whole: Path, resumed: Path) -> None:
    """Weights, their average, the optimiser's state and the schedules agree bit by bit."""
    assert differences(whole, resumed) == []
    meta = torch.load(resumed / "epoch_3.pth", weights_only=False)["meta"]
    assert (meta["epoch"], meta["iter"]) == (3, 9)


REPEATED = dict(type="RepeatAugSampler", shuffle=True)


@pytest.mark.parametrize(
    ("interval", "end_after", "options"),
    [
        pytest.param(4, 5, {}, id="within an epoch"),
        pytest.param(5, 5, {"train_dataloader.num_workers": 2}, id="workers"),
        pytest.param(3, 4, {}, id="at an epoch's end"),
        pytest.param(4, 5, {"train_dataloader.sampler": REPEATED}, id="repeated augmentation"),
        pytest.param(2, 5, {"optim_wrapper.accumulative_counts": 2}, id="accumulation"),
        pytest.param(3, 5, {"optim_wrapper.accumulative_counts": 4}, id="interval rounded up"),
    ],
)
def test_resumed_training_ends_as_if_it_had_not_been_interrupted(
    tmp_path, folders, interval, end_after, options
):
    whole, work = tmp_path / "whole", tmp_path / "work"
    run(whole, folders, **options)
    assert run(work, folders, end_after=end_after, checkpoint_interval=interval, **options) is None
    seen = batches_of(work / "seen")
    (work / "seen.0").unlink()
    # The number of processes that load data may be another.
    other = {**options, "train_dataloader.num_workers": 1} if interval == 5 else options
    run(work, folders, resume="auto", checkpoint_interval=interval, **other)

    counts = options.get("optim_wrapper.accumulative_counts", 1)
    rounded = -(-interval // counts) * counts
    saved = end_after // rounded * rounded
    # Epoch, iteration, batch in the epoch, learning rate and images, each batch once.
    assert seen[:saved] + batches_of(work / "seen") == batches_of(whole / "seen")
    assert_same_end(whole, work)
    assert not (work / "mid_epoch.pth").exists()


def test_gradients_that_an_epochs_end_leaves_over_are_resumed(tmp_path, folders):
    """Updates come after 2, 4, 6 … batches, the first epoch ends after 3."""
    options = {"optim_wrapper.accumulative_counts": 2}
    whole, work = tmp_path / "whole", tmp_path / "work"
    run(whole, folders, **options)
    saved = torch.load(whole / "epoch_1.pth", weights_only=False)
    assert any(gradient.any() for gradient in saved["epoch_state"]["gradients"].values())
    run(work, folders, resume=str(whole / "epoch_1.pth"), **options)
    (whole / "epoch_1.pth").unlink()
    assert_same_end(whole, work)


def test_the_order_of_an_unseeded_training_goes_on(tmp_path, folders):
    """mmengine draws another seed for the sampler of the resumed training."""
    options = {"randomness": dict(seed=None), "hooks": ()}
    run(tmp_path, folders, end_after=5, checkpoint_interval=5, **options)
    run(tmp_path, folders, resume="auto", **options)
    seen = batches_of(tmp_path / "seen")
    by_epoch = {str(epoch): [] for epoch in range(3)}
    for epoch, _, _, _, *images in seen:
        by_epoch[epoch] += images
    assert [len(images) for images in by_epoch.values()] == [10, 10, 10]
    assert all(len(set(images)) == 10 for images in by_epoch.values())
    assert by_epoch["0"] != by_epoch["1"] != by_epoch["2"]


def test_only_an_epoch_of_the_same_length_goes_on_within(tmp_path, folders):
    run(tmp_path, folders, end_after=5, checkpoint_interval=5)
    with pytest.raises(UserError) as caught:
        run(tmp_path, folders, resume="auto", **{"train_dataloader.batch_size": 3})
    assert re.search(
        r"mid_epoch\.pth: saved after 2 of an epoch's 3 batches, but an epoch has 4 "
        "now; resume with the same data, batch size",
        str(caught.value),
    )
    run(
        tmp_path,
        folders,
        resume=str(tmp_path / "epoch_1.pth"),
        **{"train_dataloader.batch_size": 3},
    )
    assert (tmp_path / "epoch_3.pth").exists()


def test_a_checkpoint_of_mmengines_own_loop_resumes_by_epochs(tmp_path, folders, monkeypatch):
    monkeypatch.setattr(launch, "set_train_loop", lambda cfg: None)
    run(tmp_path, folders, end_after=4)
    assert "epoch_state" not in torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    monkeypatch.undo()
    runner = run(tmp_path, folders, resume="auto")
    assert isinstance(runner.train_loop, ResumableEpochTrainLoop)
    assert runner.iter == 9


@pytest.mark.parametrize(
    "loop", [dict(by_epoch=True), dict(type="EpochBasedTrainLoop"), dict(type=EpochBasedTrainLoop)]
)
def test_every_training_by_epochs_resumes_so(tmp_path, folders, loop):
    cfg = load_config(classifier_config(tmp_path / "config.py", folders))
    cfg.train_cfg = dict(**loop, max_epochs=3)
    launch.set_train_loop(cfg)
    assert cfg.train_cfg == dict(type="ResumableEpochTrainLoop", max_epochs=3)


@pytest.mark.parametrize(
    "loop", [dict(by_epoch=False), dict(type="IterBasedTrainLoop", fast_forward_on_resume=True)]
)
def test_every_training_by_iterations_resumes_so(tmp_path, folders, loop):
    cfg = load_config(classifier_config(tmp_path / "config.py", folders))
    cfg.train_cfg = dict(**loop, max_iters=3)
    launch.set_train_loop(cfg)
    assert cfg.train_cfg == dict(type="ResumableIterTrainLoop", max_iters=3)


# By iterations


def iterations(sampler: str, **options) -> dict:
    return {
        "train_cfg": dict(_delete_=True, by_epoch=False, max_iters=11, val_interval=1000),
        "train_dataloader.sampler.type": sampler,
        "default_hooks.checkpoint": dict(type="CheckpointHook", by_epoch=False, interval=4),
        "param_scheduler": [dict(type="PolyLR", by_epoch=False, begin=0, end=11)],
        "log_processor.by_epoch": False,
        **options,
    }


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(iterations("InfiniteSampler"), id="endless"),
        pytest.param(
            iterations("InfiniteSampler", **{"train_dataloader.num_workers": 2}), id="workers"
        ),
        pytest.param(iterations("DefaultSampler"), id="several epochs"),
        pytest.param(
            iterations("DefaultSampler", **{"optim_wrapper.accumulative_counts": 3}),
            id="accumulation",
        ),
    ],
)
def test_training_by_iterations_goes_on_with_the_next_batch(tmp_path, folders, options):
    whole, work = tmp_path / "whole", tmp_path / "work"
    runner = run(whole, folders, **options)
    assert isinstance(runner.train_loop, ResumableIterTrainLoop)
    assert run(work, folders, end_after=7, **options) is None
    seen = batches_of(work / "seen")
    (work / "seen.0").unlink()
    run(work, folders, resume="auto", **options)
    saved = 6 if "optim_wrapper.accumulative_counts" in options else 4
    assert seen[:saved] + batches_of(work / "seen") == batches_of(whole / "seen")
    assert differences(whole, work) == []


def test_data_come_in_mmengines_order(tmp_path, folders, monkeypatch):
    """Where they end, as where they do not, and without its pause of two seconds there."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    options = iterations("DefaultSampler", hooks=())
    run(ours, folders, **options)
    monkeypatch.setattr(launch, "set_train_loop", lambda cfg: None)
    monkeypatch.setattr("mmengine.runner.loops.time.sleep", lambda seconds: None)
    runner = run(theirs, folders, **options)
    assert type(runner.train_loop) is IterBasedTrainLoop
    assert batches_of(ours / "seen") == batches_of(theirs / "seen")


# Evaluations


PLATEAU = dict(
    type="ReduceOnPlateauParamScheduler",
    param_name="lr",
    monitor="accuracy/top1",
    rule="greater",
    patience=0,
    factor=0.5,
)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_an_evaluation_that_was_due_is_made_up_for(tmp_path, folders, by_epoch, monkeypatch):
    """The kill comes between the checkpoint and the evaluation that lowers the learning rate."""
    from mmpretrain.evaluation import Accuracy

    options = {} if by_epoch else iterations("InfiniteSampler")
    loader = dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="default_collate"),
    )
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
    loader["dataset"] = dict(
        type="CustomDataset", data_root=str(folders), pipeline=pipeline, serialize_data=False
    )
    options |= {
        "train_cfg.val_interval": 1 if by_epoch else 4,
        "val_cfg": dict(),
        "val_dataloader": loader,
        "val_evaluator": dict(type="Accuracy", topk=(1,)),
        "param_scheduler": [PLATEAU],
        "default_hooks.checkpoint.save_best": "accuracy/top1",
    }
    monkeypatch.setattr(Accuracy, "compute_metrics", lambda *_: {"top1": 50.0})
    whole, work = tmp_path / "whole", tmp_path / "work"
    run(whole, folders, **options)
    evaluate = Accuracy.evaluate
    evaluated = []

    def killed(metric, size):
        evaluated.append(size)
        if len(evaluated) == 1:
            raise InterruptedError
        return evaluate(metric, size)

    monkeypatch.setattr(Accuracy, "evaluate", killed)
    assert run(work, folders, **options) is None
    run(work, folders, resume="auto", **options)
    assert len(evaluated) == 4  # the one killed and made up for, and two
    for folder in (whole, work):  # mmengine saves it anew after the evaluation, if it saved it
        (folder / ("epoch_1.pth" if by_epoch else "iter_4.pth")).unlink()
    assert differences(whole, work) == []
    rates = [float.fromhex(batch[3]) for batch in batches_of(whole / "seen")]
    assert rates[-1] < rates[0]


# Mixed precision


def test_the_scaler_of_float16_goes_on(tmp_path, folders, monkeypatch):
    """A GPU's, here for the CPU; it doubles after every second update."""
    scaler = partial(torch.amp.GradScaler, device="cpu")
    monkeypatch.setattr(amp_optimizer_wrapper, "GradScaler", scaler)
    monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)
    monkeypatch.setattr(mixed_precision, "_check_device", lambda dtype, option: None)
    half = partial(torch.autocast, "cpu")
    monkeypatch.setattr(amp, "autocast", half)
    scale = dict(init_scale=2.0**8, growth_interval=2)
    options = {"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.loss_scale": scale}
    whole, work = tmp_path / "whole", tmp_path / "work"
    run(whole, folders, **options)
    assert run(work, folders, end_after=5, checkpoint_interval=4, **options) is None
    states = [
        torch.load(folder / name, weights_only=False)["optimizer"]["loss_scaler"]
        for folder, name in ((work, "mid_epoch.pth"), (whole, "epoch_3.pth"))
    ]
    assert [state["scale"] for state in states] == [2.0**10, 2.0**12]
    assert [state["_growth_tracker"] for state in states] == [0, 1]
    runner = run(work, folders, resume="auto", checkpoint_interval=4, **options)
    assert_same_end(whole, work)
    assert runner.optim_wrapper.loss_scaler.state_dict() == states[1]


# Skipping


class Images(Dataset):
    """Twelve images; tells which are loaded."""

    def __init__(self) -> None:
        self.loaded = torch.zeros(12, dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> int:
        self.loaded[index] += 1
        return index


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_not_loaded(workers):
    images = Images()
    batches = RemainingBatches(
        BatchSampler(range(12), batch_size=3, drop_last=False),
        SimpleNamespace(runner=SimpleNamespace(seed=0, rank=0), iter=0),
    )
    loader = DataLoader(
        images, batch_sampler=batches, num_workers=workers, persistent_workers=workers > 0
    )
    batches.first = 2
    assert [batch.tolist() for batch in loader] == [[6, 7, 8], [9, 10, 11]]
    assert images.loaded.tolist() == [0] * 6 + [1] * 6
    assert len(loader) == 4
    batches.first = 0
    assert len(list(loader)) == 4


def test_a_cut_off_checkpoint_never_takes_the_place_of_a_whole_one(tmp_path, folders, monkeypatch):
    write = WholeFilesBackend.write
    count = []

    def killed_at_four(backend, file, obj):
        count.extend(["checkpoint"] if len(obj) > 10_000 else [])
        if len(count) == 3:  # after two iterations, an epoch and four iterations
            raise InterruptedError
        write(backend, file, obj)

    monkeypatch.setattr(WholeFilesBackend, "write", killed_at_four)
    assert run(tmp_path, folders, checkpoint_interval=2) is None
    assert torch.load(tmp_path / "mid_epoch.pth", weights_only=False)["meta"]["iter"] == 2
    assert launch.last_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"


def test_another_number_of_processes_is_told(tmp_path, folders, capsys):
    run(tmp_path, folders)
    path = tmp_path / "epoch_1.pth"
    content = torch.load(path, weights_only=False)
    content["epoch_state"]["processes"] = 2
    torch.save(content, path)
    run(tmp_path, folders, resume=str(path))
    assert (
        f"{path}: saved by 2 processes, resumed by 1: images and random" in capsys.readouterr().out
    )
