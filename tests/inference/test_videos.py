"""Videos come frame by frame, and are written whole or not at all."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from halvit_mm.errors import UserError
from halvit_mm.inference.videos import Video, video_file


def frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Plain pictures, each a little brighter and more red."""
    return [np.full((height, width, 3), (5 * i, 2 * i, 0), np.uint8) for i in range(count)]


def write(path: Path, pictures, rate: float = 25.0) -> Path:
    with video_file(path, rate) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def test_what_is_written_is_read(tmp_path):
    pictures = frames(40)
    video = Video(write(tmp_path / "a.mp4", pictures, rate=12.5))
    assert (video.expected, video.rate) == (40, 12.5)
    found = list(video)
    assert [number for number, _ in found] == list(range(40))
    for (_, frame), picture in zip(found, pictures, strict=True):
        assert frame.shape == (48, 64, 3)
        assert np.abs(frame.astype(int) - picture).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_each_third_frame(tmp_path):
    video = Video(write(tmp_path / "a.mp4", frames(40)), every=3)
    assert video.expected == 14
    assert video.rate == pytest.approx(25 / 3)
    assert [number for number, _ in video] == list(range(0, 40, 3))


@pytest.mark.parametrize("size", [(47, 63), (1, 400), (1, 1)])
def test_odd_sizes_lose_a_line_and_the_smallest_gain_one(tmp_path, size):
    video = Video(write(tmp_path / "a.mp4", frames(3, *size)))
    shapes = {frame.shape for _, frame in video}
    assert shapes == {(*(max(2, side // 2 * 2) for side in size), 3)}


def test_a_video_without_frames_is_not_written(tmp_path):
    write(tmp_path / "a.mp4", [])
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_leaves_nothing(tmp_path):
    write(tmp_path / "a.mp4", frames(3))
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(KeyboardInterrupt), video_file(tmp_path / "a.mp4", 25.0) as writer:
        writer.write(frames(2)[1])
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_a_full_disk_is_noticed(tmp_path):
    """OpenCV says nothing; files that may not grow stand for the full disk."""
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 255, (30, 96, 128, 3), dtype=np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            (tmp_path / "probe").write_bytes(bytes(30_000))
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(UserError, match=r"b\.mp4: cannot write the video whole \(\d+ of 30"):
            write(tmp_path / "b.mp4", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]


def damaged(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def test_a_video_that_is_cut_off_gives_its_frames_and_then_an_error(tmp_path):
    import cv2

    file = str(tmp_path / "a.avi")
    writer = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for picture in frames(40):
        writer.write(picture)
    writer.release()
    video, seen = Video(damaged(Path(file), 0.5)), []
    with pytest.raises(UserError, match=r"cut off, \d+ of its 40 frames can be decoded"):
        seen.extend(number for number, _ in video)
    assert 5 < len(seen) < 30
    assert seen == list(range(len(seen)))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty; copy the video again"),
        (b"no video\n" * 99, "the video cannot be decoded; it is damaged, or of a kind that"),
        (None, "the video cannot be read (No such file or directory)"),
    ],
)
def test_files_that_are_no_videos(tmp_path, content, sentence):
    file = tmp_path / "a.mp4"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Video(file)
    assert str(caught.value).startswith(f"{file}: {sentence}")


def test_names_that_are_no_text_are_refused_before_opencv_falls_over_them(tmp_path):
    file = tmp_path / os.fsdecode(b"\xff\xfe.mp4")
    write(tmp_path / "a.mp4", frames(3)).rename(file)
    with pytest.raises(UserError, match=r"the name is not in UTF-8; rename the video"):
        Video(file)
    with pytest.raises(UserError, match="not in UTF-8"):
        write(file, frames(3))


def test_a_cut_mp4_is_no_video(tmp_path):
    """Its index stands at the end."""
    with pytest.raises(UserError, match="the video cannot be decoded"):
        Video(damaged(write(tmp_path / "a.mp4", frames(40)), 0.9))
