"""Files that become whole or do not become."""

import errno
import os
from pathlib import Path

import pytest

from halvit_mm.errors import UserError
from halvit_mm.files import whole_file


def test_a_file_is_there_when_the_block_ends(tmp_path):
    with whole_file(tmp_path / "new/a.txt") as file:
        file.write_text("whole")
        assert not (tmp_path / "new/a.txt").exists()
    assert (tmp_path / "new/a.txt").read_text() == "whole"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
        (OSError(errno.EFBIG, "File too large"), UserError),
        (OSError(errno.EIO, "Input/output error"), OSError),
        (ValueError("a bug"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_what_was_there_stays_where_writing_fails(tmp_path, error, raised):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(raised) as caught, whole_file(target) as file:
        file.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    if raised is UserError:
        assert str(caught.value) == (
            f"{target}: cannot write it ({error.strerror}); make room, or choose another place"
        )


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").touch()
    with pytest.raises(UserError, match="cannot write it"), whole_file(tmp_path / "a") as file:
        file.touch()
    assert os.listdir(tmp_path) == ["a"]


def test_places_that_cannot_be_written():
    with pytest.raises(UserError, match="cannot write there"), whole_file(Path("/proc/1/x/a")):
        pass
