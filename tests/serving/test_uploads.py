"""Pictures that come to the page."""

import numpy as np
import pytest
from PIL import Image

from halvit_mm.errors import UserError
from halvit_mm.serving.uploads import Limits, find_examples, open_picture, scaled_down


def save(path, size=(40, 30), colour=(10, 20, 30)):
    Image.new("RGB", size, colour).save(path)
    return path


def test_small_pictures_stay_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(open_picture(tmp_path / "a.png", name="a", limits=Limits()), pixels)


def test_large_pictures_are_scaled_down_in_proportion(tmp_path):
    save(tmp_path / "a.png", (400, 100))
    image = open_picture(tmp_path / "a.png", name="a", limits=Limits(side=200))
    assert image.shape == (50, 200, 3)
    assert (image == (10, 20, 30)).all()


def test_no_side_vanishes():
    assert scaled_down(np.zeros((1, 1000, 3), np.uint8), 100).shape == (1, 100, 3)


def test_too_large_a_file_is_refused_unread(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture at all" * 100)
    with pytest.raises(UserError, match=r"^mine\.png: the file is larger than 0\.001 MB"):
        open_picture(tmp_path / "a.png", name="mine.png", limits=Limits(megabytes=0.001))


def test_messages_call_a_file_by_its_owners_name(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UserError, match=r"^mine\.png: "):
        open_picture(tmp_path / "a.png", name="mine.png", limits=Limits())


def test_a_file_that_is_gone_is_told(tmp_path):
    with pytest.raises(UserError, match=r"^mine\.png: there is no such"):
        open_picture(tmp_path / "a.png", name="mine.png", limits=Limits())


def test_examples_are_the_folders_pictures_by_name(tmp_path):
    save(tmp_path / "b.png", (800, 400))
    save(tmp_path / "a.JPG")
    (tmp_path / "broken.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    examples, faults = find_examples(tmp_path, limits=Limits())
    assert [example.file.name for example in examples] == ["a.JPG", "b.png"]
    assert [example.thumbnail.shape for example in examples] == [(30, 40, 3), (80, 160, 3)]
    assert len(faults) == 1 and "broken.png: the file is empty" in faults[0]


def test_no_more_examples_than_fit_the_page(tmp_path):
    for i in range(30):
        save(tmp_path / f"{i:02}.png", (4, 4))
    examples, _ = find_examples(tmp_path, limits=Limits())
    assert [example.file.name for example in examples] == [f"{i:02}.png" for i in range(24)]


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="no picture that can be read"):
        find_examples(tmp_path, limits=Limits())
    with pytest.raises(UserError, match="no such folder"):
        find_examples(tmp_path / "missing", limits=Limits())
