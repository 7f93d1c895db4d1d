"""The folder of pictures: what goes from it, and what stays."""

import os
import time
from pathlib import Path

import pytest

from halvit_mm.serving.room import keep_room, make_room

KIB = 1024
HOUR = 3600


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five pictures of 1 KiB in folders of their own, the first one the oldest."""
    for i in range(5):
        (tmp_path / f"folder{i}").mkdir()
        (tmp_path / f"folder{i}" / "picture.png").write_bytes(bytes(KIB))
        time.sleep(0.02)  # files' times are as coarse as the system's clock
    return tmp_path


def pictures(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/picture.png"))


def test_the_oldest_go_where_there_are_too_many_bytes(folder):
    make_room(folder, age=HOUR, most_bytes=3 * KIB)
    assert pictures(folder) == ["folder2", "folder3", "folder4"]


def test_all_stay_where_there_is_room(folder):
    make_room(folder, age=HOUR, most_bytes=5 * KIB)
    assert len(pictures(folder)) == 5


def test_empty_folders_go_when_they_have_been_so_for_a_while(folder):
    for name in ("folder0", "folder1"):
        (folder / name / "picture.png").unlink()
    (folder / "folder2" / "within").mkdir()
    minute_ago = time.time() - 61
    os.utime(folder / "folder0", (minute_ago, minute_ago))
    os.utime(folder / "folder2" / "within", (minute_ago, minute_ago))
    os.utime(folder, (minute_ago, minute_ago))
    make_room(folder, age=HOUR, most_bytes=5 * KIB)
    assert {path.name for path in folder.iterdir()} == {f"folder{i}" for i in range(1, 5)}
    assert pictures(folder) == ["folder2", "folder3", "folder4"]
    assert not (folder / "folder2" / "within").exists()


def test_the_folder_itself_stays(tmp_path):
    os.utime(tmp_path, (0, 0))
    make_room(tmp_path, age=HOUR, most_bytes=0)
    assert tmp_path.is_dir()


def test_it_is_looked_after_until_the_end(folder):
    gone = []
    with keep_room(folder, age=HOUR, most_bytes=KIB, seconds=0.01, forget=gone.extend):
        for name in ("first", "second"):
            time.sleep(0.02)
            (folder / name).write_bytes(bytes(KIB))
        end = time.monotonic() + 10
        while (folder / "first").exists() and time.monotonic() < end:
            time.sleep(0.01)
    assert gone == [str(folder / "first")]
    assert (folder / "second").exists()
    assert len(pictures(folder)) == 5  # these were there before
    (folder / "third").write_bytes(bytes(KIB))
    time.sleep(0.1)
    assert (folder / "second").exists()


def test_old_ones_go_where_there_is_room(folder):
    time.sleep(0.5)
    (folder / "new").write_bytes(bytes(KIB))
    own = str(folder / "folder1" / "picture.png")
    gone = make_room(folder, age=0.3, most_bytes=100 * KIB, own=[own])
    assert gone == [str(folder / f"folder{i}" / "picture.png") for i in (0, 2, 3, 4)]
    assert pictures(folder) == ["folder1"]
    assert (folder / "new").exists()
