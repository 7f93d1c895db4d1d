"""The report of a halving: its table, its sentences, its file and its picture."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from halvit_mm.errors import UserError
from halvit_mm.halving.picture import draw_report
from halvit_mm.halving.report import Report, UnitReport, duration, megabytes
from halvit_mm.visualization.colours import line_colour


def unit(number: int, **changes: object) -> UnitReport:
    facts = dict(error_start=0.5 / number, error=0.00123 * number, seconds=2.25 * number)
    facts |= dict(name=f"block {number}", parameters_dense=1200, parameters_half=600)
    return UnitReport(**facts | changes)


def report(units: int = 3, **changes: object) -> Report:
    facts = dict(
        source="deit.pth",
        checkpoint="half.pth",
        config="half.py",
        method="reconstruction",
        options=dict(steps=300, lr=0.001),
        units=tuple(unit(number) for number in range(1, units + 1)),
        parameters_dense=20_000,
        parameters_half=10_500,
        bytes_dense=8_000_000,
        bytes_half=4_200_000,
        images=256,
        agreement=0.875,
        divergence=0.12345,
        seconds=754.4,
        peak_memory=3 * 2**29,
        left_out={"distillation token": 2},
        notes=("the head was fitted anew",),
    )
    return Report(**facts | changes)


def test_the_table() -> None:
    first, *rows = report(units=11, notes=()).table().split("\n")
    assert len({len(line) for line in (first, *rows)}) == 1  # all columns are aligned
    assert first.split("  ")[0] == "unit" and "error at first" in first
    assert rows[0].split() == ["block", "1", "1,200", "600", "0.5", "0.00123", "2.2", "s"]
    assert rows[10].split()[1:4] == ["11", "1,200", "600"]


def test_what_the_terminal_shows() -> None:
    assert report().lines()[5:] == [
        "deit.pth → half.pth, for half.py",
        "method: reconstruction (steps 300, lr 0.001)",
        "parameters: 20,000 → 10,500 (52.5%)",
        "bytes: 8.0 MB → 4.2 MB (52.5%)",
        "agreement: the dense model's class on 87.5% of 256 calibration images, 0.123 nats apart",
        "left out of the source: distillation token (2 tensors)",
        "the head was fitted anew",
        "it took 12:34 min, at most 1.5 GiB",
        "the weights are in half.pth: fine-tune them by "
        "`python tools/train.py half.py --load-from half.pth`",
    ]
    assert report().lines()[:5] == [*report().table().split("\n"), ""]


def test_lines_that_depend_on_what_there_is() -> None:
    plain = report(
        method="average", options={}, left_out={}, notes=(), peak_memory=0, corrections=1234,
        agreement=None, divergence=None, checkpoint="a half.pth",
    ).lines()  # fmt: skip
    assert plain[6:8] == [
        "method: average",
        "parameters: 20,000 → 10,500 (52.5%), 1,234 of them corrections",
    ]
    assert plain[9] == "it took 12:34 min" and len(plain) == 11
    assert plain[10].endswith(
        'init_cfg=dict(type="PretrainedBackbone", checkpoint="a half.pth")'
    )  # there is no head that --load-from would find
    assert report(checkpoint="a half.pth").lines()[-1].endswith("--load-from 'a half.pth'`")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1:00 min"), (754.4, "12:34 min"), (3723, "1:02:03")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_megabytes() -> None:
    assert [megabytes(n) for n in (346_270_624, 1_240_000, 123_456, 4321)] == [
        "346.3 MB",
        "1.2 MB",
        "0.1 MB",
        "0.0043 MB",
    ]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "half.json"
    for one in (report(), report(units=1, agreement=None, divergence=None, notes=())):
        one.save(file)
        assert Report.load(file) == one
        assert [path.name for path in file.parent.iterdir()] == ["half.json"]
    content = json.loads(file.read_text())
    assert content["units"][0] == dict(
        name="block 1", parameters_dense=1200, parameters_half=600, error_start=0.5,
        error=0.00123, seconds=2.25,
    )  # fmt: skip
    assert content["parameters_half"] == 10_500 and content["agreement"] is None


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "half.json"
    report().save(file)
    with pytest.raises(TypeError):
        report(options=dict(what=object())).save(file)
    assert Report.load(file) == report() and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="choose another path"):
        report().save(file / "half.json")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"units": 3}', '{"units": []}', "\x00\x80"])
def test_files_that_are_no_report(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    with pytest.raises(UserError, match=r"cannot read the report \(No such file"):
        Report.load(file)
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"this is no report of tools/halve.py, with source, che"):
        Report.load(file)


def drawn(one: Report, path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Figure, Image.Image]:
    """The figure and the PNG."""
    figures = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **options: object) -> None:
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_report(one, path)
    return figures[-1], Image.open(path).convert("RGB")


def texts(figure: Figure) -> set[str]:
    """All that is written in a picture."""
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text) if text.get_visible()}


@pytest.mark.parametrize("units", [1, 4, 13, 36])
def test_the_picture(units: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = report(units, agreement=0.5)
    figure, picture = drawn(one, tmp_path / "half.png", monkeypatch)
    assert picture.width == 1500 and picture.height >= 660
    shown = texts(figure)
    assert {f"block {number}" for number in range(1, units + 1)} <= shown
    assert {"parameters: 52.5%", "20,000", "10,500", "bytes: 52.5%", "8.0 MB", "4.2 MB"} <= shown
    assert "same class as the dense model: 50.0%" in shown
    assert any("0.123 nats apart" in text for text in shown)
    assert "deit.pth → half.pth: reconstruction, 256 images, 12:34 min" in shown

    errors = figure.axes[0]
    assert errors.get_xscale() == "log"
    dots = {line.get_color(): [] for line in errors.lines}
    for line in errors.lines:
        if line.get_marker() == "o" and len(line.get_xdata()):
            dots[line.get_color()].append((line.get_xdata()[0], line.get_ydata()[0]))
    start, end = (tuple(c / 255 for c in line_colour(number)) for number in (5, 1))
    assert dots[start] == [(unit.error_start, row) for row, unit in enumerate(one.units)]
    assert dots[end] == [(unit.error, row) for row, unit in enumerate(one.units)]

    # Names of units do not touch each other, nor do the values leave the picture.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    names = sorted(
        (label.get_window_extent(renderer) for label in errors.get_yticklabels()),
        key=lambda box: box.y0,
    )
    assert all(low.y1 < high.y0 for low, high in pairwise(names))
    low, high = errors.get_xlim()  # ticks beyond the ends of an axis exist, but are not drawn
    ticks = [
        (label.get_window_extent(renderer), label.get_text())
        for label, at in zip(errors.get_xticklabels(), errors.get_xticks(), strict=True)
        if low <= at <= high
    ]
    assert len(ticks) >= 2 and {"0.0001", "0.001", "0.01", "0.1", "1"} >= {
        text for _, text in ticks
    }
    assert all(left.x1 < right.x0 for (left, _), (right, _) in pairwise(ticks))
    assert not any(label.get_text() for label in errors.get_xticklabels(minor=True))
    for text in figure.findobj(lambda artist: hasattr(artist, "get_text")):
        if text.get_text() and text.get_visible() and text not in errors.get_xticklabels():
            box = text.get_window_extent(renderer)
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text.get_text()
            assert box.y0 >= 0 and box.y1 <= figure.bbox.height, text.get_text()
    right = np.array(picture)[:, 950:].reshape(-1, 3)
    areas = [(right == line_colour(number)).all(axis=1).sum() for number in (0, 1)]
    assert 0.75 < areas[1] / areas[0] < 0.8  # 52% twice and 50% once, to 100% twice


def test_a_picture_of_a_perfect_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of 0, which no logarithm has, alone and beside others."""
    zero = tuple(unit(number, error_start=0.0, error=0.0) for number in (1, 2))
    one = replace(report(agreement=1.0, divergence=0.0), units=zero)
    figure, _ = drawn(one, tmp_path / "half.png", monkeypatch)
    assert figure.axes[0].get_xlim()[0] > 0 and "0" in texts(figure)
    one = replace(one, units=(unit(1, error=0.0), unit(2, error=0.001)))
    figure, _ = drawn(one, tmp_path / "half.png", monkeypatch)
    low, high = figure.axes[0].get_xlim()
    points = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata())]
    assert low < min(points) < 0.0002 and max(points) < high


def test_a_picture_without_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = report(agreement=None, divergence=None, images=0, method="average")
    figure, _ = drawn(one, tmp_path / "half.png", monkeypatch)
    shown = texts(figure)
    assert "no classes to compare" in shown and not any("nats" in text for text in shown)
    assert "deit.pth → half.pth: average, 12:34 min" in shown


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.png"):
        draw_report(report(), tmp_path / "half.jpg")
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_imported_where_something_is_drawn(root: Path) -> None:
    code = "import sys, halvit_mm.halving.picture; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
