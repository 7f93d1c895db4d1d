"""What becomes of errors in the commands."""

from collections.abc import Callable
from pathlib import Path

import pytest
from archives import make_archives
from mmengine.config import Config
from torch.utils.data import DataLoader

from halvit_mm.cli import run
from halvit_mm.datasets import LabelledImages
from halvit_mm.datasets.image_archive import unpack_images
from halvit_mm.errors import UserError


def outcome(main: Callable[[], int | None], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """The status and what standard error has."""
    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code, capsys.readouterr().err


def fail(error: BaseException) -> None:
    raise error


def test_statuses(capsys):
    assert outcome(lambda: None, capsys) == (0, "")
    assert outcome(lambda: 3, capsys) == (3, "")
    assert outcome(lambda: fail(KeyboardInterrupt()), capsys) == (130, "interrupted\n")
    assert outcome(lambda: fail(UserError("x.py: it is wrong: correct it")), capsys) == (
        2,
        "error: x.py: it is wrong: correct it\n",
    )


@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), SystemExit), (ValueError(), SyntaxError)]
)
def test_ctrl_c_while_a_config_is_formatted(error, raised, capsys, monkeypatch):
    """mmengine does so for each checkpoint, and makes a SyntaxError of whatever ends it."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda *_, **__: fail(error))
    with pytest.raises(raised) as caught:
        run(lambda: Config(dict(a=1)).pretty_text)
    if raised is SystemExit:
        assert (caught.value.code, capsys.readouterr().err) == (130, "interrupted\n")


@pytest.mark.parametrize("error", [ValueError("no"), FileNotFoundError(2, "No such file", "a.jpg")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run(lambda: fail(error))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    unpack_images(make_archives(tmp_path / "packed"), tmp_path / "folders")
    return tmp_path / "folders"


def read_all(dataset, workers: int) -> Callable[[], None]:
    def main() -> None:
        for _ in DataLoader(dataset, batch_size=None, num_workers=workers, timeout=100 * workers):
            pass

    return main


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read(folders, capsys, workers):
    """The sentence alone, also from another process, which sends its traceback along."""
    dataset = LabelledImages(data_root=str(folders), split="train")
    file = folders / "train/ant/00001.jpg"
    file.write_bytes(b"")
    status, errors = outcome(read_all(dataset, workers), capsys)
    assert status == 2
    assert errors.splitlines()[-1] == (
        f"error: {file}: the image cannot be read (empty file): replace or remove it"
    )


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"<html>", "{file}: this is no image that can be decoded: replace or remove it"),
        (b"", "an image is an empty file; `find FOLDER -empty` lists such files"),
        (None, "{file}: there is no such image: replace or remove it"),
    ],
)
def test_an_image_that_mmcv_cannot_read(folders, capsys, workers, content, sentence):
    from mmpretrain.datasets import CustomDataset

    pipeline = [dict(type="LoadImageFromFile")]
    dataset = CustomDataset(data_root=str(folders), data_prefix="train", pipeline=pipeline)
    file = folders / "train/ant/00001.jpg"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    status, errors = outcome(read_all(dataset, workers), capsys)
    assert status == 2
    assert errors.splitlines()[-1] == f"error: {sentence.format(file=file)}"
