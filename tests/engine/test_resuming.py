"""Training interrupted within an epoch and resumed, against the same without interruption."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop, Runner
from recording import batches_of
from tiny_runs import classifier_config, make_folders
from torch.utils.data import BatchSampler, DataLoader, Dataset

from halvit_mm.engine import launch
from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.resuming import RemainingBatches, ResumableEpochTrainLoop
from halvit_mm.errors import UserError

EMA = dict(type="EMAHook", momentum=0.1)
SCHEDULES = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4),
    dict(type="CosineAnnealingLR", T_max=3, by_epoch=True, convert_to_iter_based=True),
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
        "train_cfg.max_epochs": 3,
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
    cfg = load_config(classifier_config(work / f"{name}.py", folders, dim=16), options)
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
    one, other = (torch.load(work / "epoch_3.pth", weights_only=False) for work in (whole, resumed))
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert equal(one[part], other[part]), part
    assert one["meta"]["iter"] == other["meta"]["iter"] == 9
    assert one["meta"]["epoch"] == other["meta"]["epoch"] == 3


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


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
    run(work, folders, resume="auto", checkpoint_interval=interval, **options)

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
    cfg.train_cfg = dict(by_epoch=False, max_iters=3)
    launch.set_train_loop(cfg)
    assert cfg.train_cfg == dict(by_epoch=False, max_iters=3)


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
    batches = RemainingBatches(BatchSampler(range(12), batch_size=3, drop_last=False))
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
    save = Runner.save_checkpoint

    def killed_at_four(runner, out_dir, filename, *args, **kwargs):
        save(runner, out_dir, filename, *args, **kwargs)
        if runner.iter + 1 == 4 and "mid_epoch" in filename:
            (Path(out_dir) / filename).write_bytes(b"half")
            raise InterruptedError

    monkeypatch.setattr(Runner, "save_checkpoint", killed_at_four)
    assert run(tmp_path, folders, checkpoint_interval=2) is None
    assert torch.load(tmp_path / "mid_epoch.pth", weights_only=False)["meta"]["iter"] == 2
    assert launch.last_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"
