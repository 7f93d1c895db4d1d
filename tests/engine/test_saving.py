"""Checkpoints under kills, full disks and damage: written whole, removed late, replaced if bad."""

import errno
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from killing import differences
from mmengine.fileio import get_file_backend
from mmengine.logging import MMLogger
from tiny_runs import classifier_config, make_folders

from halvit_mm.engine import launch
from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.last_checkpoint import last_checkpoint
from halvit_mm.engine.saving import SafeCheckpointHook, WholeFilesBackend, remove_unfinished
from halvit_mm.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Six images: two batches an epoch."""
    return make_folders(tmp_path_factory.mktemp("folders") / "data", images=3)


_RUNS = iter(range(1000))


def train(work: Path, folders: Path, *, resume: str | None = None, epochs: int = 4, **options):
    """Trains with a checkpoint and an evaluation each epoch; keeps the last one and the best."""
    work.mkdir(exist_ok=True)
    options = {
        "train_cfg.max_epochs": epochs,
        "train_cfg.val_interval": 1,
        "default_hooks.checkpoint.interval": 1,
        "default_hooks.checkpoint.max_keep_ckpts": 1,
        "randomness": dict(seed=3),
        **options,
    }
    config = classifier_config(work.parent / f"run_{next(_RUNS)}.py", folders, dim=16)
    return launch.train(load_config(config, options), work_dir=str(work), resume=resume)


def checkpoints(work: Path) -> set[str]:
    return {path.name for path in work.glob("*.pth")}


@pytest.fixture
def failing(monkeypatch) -> Iterator[Callable[[int, BaseException], None]]:
    """Makes the n-th checkpoint from now on fail when half of it is written."""

    def fail(number: int, error: BaseException) -> None:
        left = [number]

        def write(self, file, obj):
            if len(obj) > 10_000:  # not the note
                left[0] -= 1
            if left[0]:
                return file.write(obj)
            file.write(obj[: len(obj) // 2])
            raise error

        monkeypatch.setattr(WholeFilesBackend, "write", write)

    yield fail


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folders) -> Path:
    """The training without interruption."""
    work = tmp_path_factory.mktemp("whole") / "work"
    train(work, folders)
    return work


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_what_mmengine_writes_is_whole_or_not_at_all(tmp_path, failing):
    file = tmp_path / "a" / "file.pth"
    backend = get_file_backend(str(file))
    assert isinstance(backend, WholeFilesBackend)
    backend.put(b"1" * 20_000, str(file))
    failing(1, FULL)
    with pytest.raises(UserError, match=r"file\.pth: cannot write it \(No space left on device\)"):
        backend.put(b"2" * 20_000, str(file))
    assert file.read_bytes() == b"1" * 20_000
    assert [path.name for path in file.parent.iterdir()] == ["file.pth"]


def test_what_a_killed_training_left_over_is_removed_at_the_next_start(tmp_path):
    unfinished = [".epoch_3.pth.77.tmp", ".mid_epoch.pth.1.tmp", ".last_checkpoint.9.tmp"]
    others = [".hidden.pth", "epoch_2.pth", "notes.tmp", ".report.json.77.tmp"]
    for name in (*unfinished, *others):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(others)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(FULL, UserError, id="full disk"),
        pytest.param(KeyboardInterrupt(), KeyboardInterrupt, id="Ctrl-C"),
    ],
)
def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(
    tmp_path, folders, whole, failing, error, raised, monkeypatch
):
    """Of which there is one alone, ``max_keep_ckpts=1``, that mmengine would remove first."""
    work = tmp_path / "work"
    off = {"val_cfg": None, "val_dataloader": None, "val_evaluator": None}
    failing(3, error)
    with pytest.raises(raised) as caught:
        train(work, folders, **off)
    if raised is UserError:
        assert str(caught.value) == (
            f"{work}/epoch_3.pth: cannot write it (No space left on device), so this stops; make "
            f"room, then --resume goes on from the last good checkpoint, {work}/epoch_2.pth"
        )
    assert checkpoints(work) == {"epoch_2.pth"}
    assert not list(work.glob(".*"))
    monkeypatch.undo()
    train(work, folders, resume="auto", **off)
    assert differences(whole, work) == []


def test_the_first_checkpoint_on_a_full_disk(tmp_path, folders, failing):
    failing(1, FULL)
    with pytest.raises(UserError, match="train again from the beginning: there is no checkpoint"):
        train(tmp_path / "work", folders)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_disk_that_becomes_full_and_has_room_again(tmp_path, folders, whole, small_disk):
    work = small_disk / "work"
    work.mkdir()
    size = (whole / "epoch_4.pth").stat().st_size
    taken = small_disk / "taken"
    taken.write_bytes(bytes(2**20 - 5 * size // 2))
    off = {"val_cfg": None, "val_dataloader": None, "val_evaluator": None}
    off["default_hooks.checkpoint.max_keep_ckpts"] = -1
    with pytest.raises(UserError) as caught:
        train(work, folders, **off)
    found = sorted(checkpoints(work))[-1]
    assert str(caught.value).startswith(f"{work}/epoch_")
    assert "No space left on device" in str(caught.value)
    assert str(caught.value).endswith(
        f"--resume goes on from the last good checkpoint, {work}/{found}"
    )
    taken.unlink()
    off["default_hooks.checkpoint.max_keep_ckpts"] = 1
    train(work, folders, resume="auto", **off)
    for part in ("state_dict", "optimizer"):
        assert not [d for d in differences(whole, work) if part in d]


# The best one


RISING = {"default_hooks.checkpoint.save_best": "accuracy/top1"}


@pytest.fixture
def rising(monkeypatch) -> None:
    """Each evaluation is better than the one before."""
    from mmpretrain.evaluation import Accuracy

    scores = iter(range(1, 100))
    monkeypatch.setattr(Accuracy, "compute_metrics", lambda *_: {"top1": next(scores)})


def test_the_best_one_stays_until_a_better_one_is_written(tmp_path, folders, rising, failing):
    work = tmp_path / "work"
    failing(5, FULL)  # epoch 1, best 1, epoch 1 again, epoch 2, best 2
    with pytest.raises(UserError, match=r"best_accuracy_top1_epoch_2\.pth: cannot write it"):
        train(work, folders, **RISING)
    assert checkpoints(work) == {"epoch_2.pth", "best_accuracy_top1_epoch_1.pth"}


def test_what_a_checkpoint_made_superfluous_is_removed_after_a_kill(
    tmp_path, folders, rising, monkeypatch
):
    work = tmp_path / "work"
    with monkeypatch.context() as patch:
        remove = SafeCheckpointHook._remove_outdated

        def killed(hook):
            if (work / "epoch_3.pth").exists():
                raise InterruptedError
            remove(hook)

        patch.setattr(SafeCheckpointHook, "_remove_outdated", killed)
        with pytest.raises(InterruptedError):
            train(work, folders, **RISING)
    assert checkpoints(work) == {"epoch_2.pth", "epoch_3.pth", "best_accuracy_top1_epoch_2.pth"}
    train(work, folders, resume="auto", **RISING)
    assert checkpoints(work) == {"epoch_4.pth", "best_accuracy_top1_epoch_4.pth"}


def test_a_copy_of_a_folder_leaves_the_original_alone(tmp_path, folders, rising):
    """mmengine would remove the original's best checkpoint, whose path it has kept."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    train(original, folders, epochs=2, **RISING)
    before = checkpoints(original)
    shutil.copytree(original, copy)
    train(copy, folders, resume="auto", **RISING)
    assert checkpoints(original) == before
    assert checkpoints(copy) == {"epoch_4.pth", "best_accuracy_top1_epoch_4.pth"}


# Damage


def flip(path: Path) -> None:
    """One bit of a weight, which torch.load does not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def three(tmp_path_factory, folders) -> Path:
    """A training of four epochs that has come to the third and kept all."""
    work = tmp_path_factory.mktemp("three") / "work"
    train(work, folders, epochs=3, **{"default_hooks.checkpoint.max_keep_ckpts": -1})
    return work


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path, folders, whole, three, monkeypatch, damage
):
    work = tmp_path / "work"
    shutil.copytree(three, work)
    damage(work / "epoch_3.pth")
    said = []
    monkeypatch.setattr(
        MMLogger,
        "callHandlers",
        lambda self, record: said.append((record.levelname, record.getMessage())),
    )
    train(work, folders, resume="auto", **{"default_hooks.checkpoint.max_keep_ckpts": -1})
    (warning,) = [text for level, text in said if level == "WARNING" and "--resume" in text]
    assert warning.startswith(f"--resume: {work}/epoch_3.pth: ")
    assert warning.endswith(f"Training continues from {work}/epoch_2.pth instead")
    assert ("INFO", f"--resume: training continues from {work}/epoch_2.pth") in said
    for name in ("epoch_1.pth", "epoch_2.pth", "epoch_3.pth"):
        (work / name).unlink()
    found = differences(whole, work)
    assert not [part for part in found if "state_dict" in part or "optimizer" in part]


def test_a_damaged_checkpoint_that_was_named_is_refused(tmp_path, folders, three):
    damaged = tmp_path / "epoch_3.pth"
    shutil.copy(three / "epoch_3.pth", damaged)
    flip(damaged)
    assert torch.load(damaged, weights_only=False)  # as if nothing were wrong
    with pytest.raises(UserError, match=rf"{damaged}: the checkpoint is damaged"):
        train(tmp_path / "work", folders, resume=str(damaged))
    assert not list((tmp_path / "work").glob("*.pth"))


def test_where_all_are_damaged_training_does_not_begin_again(tmp_path, three):
    shutil.copytree(three, tmp_path / "work")
    for path in (tmp_path / "work").glob("*.pth"):
        cut(path)
    with pytest.raises(UserError, match=r"no checkpoint in .*work is whole .*; remove them to"):
        last_checkpoint(tmp_path / "work")


def test_published_weights_are_not_resumed_from(tmp_path, three):
    shutil.copy(three / "epoch_3.pth", tmp_path / "epoch_3-0123abcd.pth")
    assert last_checkpoint(tmp_path) is None
