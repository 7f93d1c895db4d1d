"""What files the user means, and what their results are called."""

from pathlib import Path

import pytest

from halvit_mm.errors import UserError
from halvit_mm.inference.inputs import find_inputs


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with images in folders; nothing opens them."""
    monkeypatch.chdir(tmp_path)
    names = (
        "a.jpg",
        "b.PNG",
        "notes.txt",
        ".hidden.jpg",
        "sub/a.jpg",
        "sub/deep/c.tif",
        "film.mp4",
    )
    for folder in ("photos", "more/photos"):
        for name in names:
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (tmp_path / "x [1].jpg").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def find(*sources, listed=(), out="out"):
    inputs = find_inputs(sources, out=Path(out), listed=listed)
    return [(file.path.as_posix(), file.name) for file in inputs.files], inputs.missing


def test_folders_stand_for_their_images_at_any_depth(place):
    assert find("photos") == (
        [
            ("photos/a.jpg", "photos/a"),
            ("photos/b.PNG", "photos/b"),
            ("photos/sub/a.jpg", "photos/sub/a"),
            ("photos/sub/deep/c.tif", "photos/sub/deep/c"),
        ],
        (),
    )


def test_equal_names_are_told_apart(place):
    files, _ = find("photos", "more/photos", "photos/a.jpg", "more/photos/sub/a.jpg", "x [1].jpg")
    assert [name for _, name in files] == [
        *("photos/a", "photos/b", "photos/sub/a", "photos/sub/deep/c"),
        *("photos/a-2", "photos/b-2", "photos/sub/a-2", "photos/sub/deep/c-2"),
        "x [1]",
    ]
    (place / "A.png").touch()
    (place / "a.jpg").touch()
    (place / "a.png").touch()
    assert [n for _, n in find("A.png", "a.jpg", "a.png")[0]] == ["A", "a-2", "a-3"]


def test_a_file_named_twice_counts_once(place):
    files, _ = find(
        "photos/a.jpg", "./photos/../photos/a.jpg", "photos/*.jpg", str(place / "photos")
    )
    assert [path for path, _ in files].count("photos/a.jpg") == 1
    assert len(files) == 4


def test_patterns(place):
    assert [p for p, _ in find("photos/**/*.jpg")[0]] == ["photos/a.jpg", "photos/sub/a.jpg"]
    assert [p for p, _ in find("photos/s*")[0]] == ["photos/sub/a.jpg", "photos/sub/deep/c.tif"]
    # A file may be called like a pattern.
    assert [p for p, _ in find("x [1].jpg")[0]] == ["x [1].jpg"]


def test_lists_of_paths(place):
    lines = ["photos/a.jpg\n", "\n", "x [1].jpg\r\n", "gone.jpg\n", "photos/*.jpg\n", "photos/sub"]
    files, missing = find("-", listed=lines)
    assert [path for path, _ in files] == [
        *("photos/a.jpg", "x [1].jpg", "photos/sub/a.jpg", "photos/sub/deep/c.tif")
    ]
    assert missing == (
        "gone.jpg: there is no such file; check the path",
        "photos/*.jpg: there is no such file; check the path",
    )


def test_what_is_missing_is_noted(place):
    files, missing = find("photos/a.jpg", "gone.jpg", "none/*.jpg")
    assert len(files) == 1
    assert missing == (
        "gone.jpg: there is no such file; check the path",
        "none/*.jpg: nothing matches this pattern",
    )


def test_videos_are_known_by_their_names(place):
    inputs = find_inputs(["photos/film.mp4", "photos/a.jpg"], out=Path("out"))
    assert [file.is_video for file in inputs.files] == [True, False]


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["empty"], r"^empty: there is no image \(\.bmp, .*\) in this folder; name one with"),
        (["photos/a.jpg", "empty"], r"^empty: there is no image"),
        (["-"], r"^there is no image to look at; name files, folders or patterns$"),
        (
            ["gone.jpg"],
            r"no image to look at.*\n  gone\.jpg: there is no such file; check the path",
        ),
    ],
)
def test_nothing_to_look_at(place, sources, words):
    with pytest.raises(UserError, match=words):
        find(*sources)


def test_results_are_no_inputs(place):
    (place / "photos/out/pictures").mkdir(parents=True)
    (place / "photos/out/pictures/a.jpg").touch()
    assert len(find("photos", out="photos/out")[0]) == 4
    for source in ("photos/out", "photos/out/pictures/a.jpg", "photos/out/*"):
        with pytest.raises(UserError, match=r"a\.jpg lies in photos/out, where results go"):
            find(source, out="photos/out")
