"""The picture and the table of trainings."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from processes import run

from halvit_mm.errors import UserError
from halvit_mm.visualization import Run, Series, plot, table
from halvit_mm.visualization.colours import line_colour


def series(*values: float, every: int = 10) -> Series:
    values = np.array(values, dtype=float)
    return Series(iterations=every * np.arange(1, len(values) + 1), values=values)


def detector(name: str = "detector", *, per_epoch: float | None = 20, **train: Series) -> Run:
    return Run(
        name=name,
        train=dict(loss=series(4, 3, 2, 1), lr=series(1e-4, 1e-4, 1e-5, 1e-5)) | train,
        val={
            "coco/bbox_mAP": series(0.25, 0.375, every=20),
            "coco/bbox_mAP_50": series(0.75, 0.5, every=20),
        },
        iterations_per_epoch=per_epoch,
    )


def classifier(name: str = "classifier") -> Run:
    return Run(
        name=name,
        train=dict(loss=series(1, 2), time=series(0.25, 0.25), memory=series(512, 1024)),
        val={"accuracy/top1": series(61.25, every=20)},
        iterations_per_epoch=None,
    )


def cells(text: str) -> list[dict[str, str]]:
    """The rows of a Markdown table."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n")]
    assert all(set(cell) == {"-"} for cell in lines[1])
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def has(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    """Whether a curve has this colour, below the legend."""
    pixels = np.array(picture.convert("RGB"))[100:]
    return bool((pixels == colour).all(axis=-1).sum() > 100)


def test_table_of_a_detector():
    (row,) = cells(table([detector()]))
    assert row == {
        "run": "detector",
        "epochs": "2",
        "iterations": "40",
        "final loss": "1.000",
        "box AP, last / best": "0.375 / 0.375",
        "box AP50, last / best": "0.500 / 0.750",
    }


def test_table_of_different_runs_has_gaps():
    rows = cells(table([detector(), classifier()]))
    assert [row["run"] for row in rows] == ["detector", "classifier"]
    assert [row["epochs"] for row in rows] == ["2", "–"]
    assert [row["top-1 (%), last / best"] for row in rows] == ["–", "61.25 / 61.25"]
    assert [row["s / iteration"] for row in rows] == ["–", "0.25"]
    assert [row["training time"] for row in rows] == ["–", "0:00:05"]
    assert [row["peak memory"] for row in rows] == ["–", "1024 MiB"]
    assert "mask AP, last / best" not in rows[0]


def seeds() -> list[Run]:
    """Two seeds of one model, the second one twice as fast, and another model."""

    def one(name: str, top1: float, seconds: float, *, epochs: int = 2) -> Run:
        per_second = series(*[32 / seconds] * 4)
        train = dict(time=series(*[seconds] * 4), images_per_second=per_second)
        val = {"accuracy/top1": series(top1 - 1, top1, every=20)}
        return Run(name=name, train=train, val=val, iterations_per_epoch=40 / epochs)

    return [one("vit_seed0", 62.5, 0.5), one("vit_seed1", 65, 0.25), one("cnn_s0", 70, 1, epochs=4)]


def test_seeds_of_a_model_share_a_row():
    vit, cnn = cells(table(seeds(), by_seed=True))
    assert vit == {
        "run": "vit",
        "seeds": "2",
        "epochs": "2",
        "iterations": "40",
        "top-1 (%), last / best": "63.75 ± 1.25 / 63.75 ± 1.25",
        "s / iteration": "0.375",
        "images / s": "96.0",
        "training time": "0:00:15",
    }
    assert (cnn["run"], cnn["seeds"], cnn["epochs"]) == ("cnn", "1", "4")
    assert cnn["top-1 (%), last / best"] == "70.00 / 70.00"
    assert [row["run"] for row in cells(table(seeds()))] == ["vit_seed0", "vit_seed1", "cnn_s0"]


def test_a_seed_without_a_result_leaves_no_mean_of_the_others():
    first, second, _ = seeds()
    shorter = replace(second, val={}, train=dict(time=series(0.25)))
    (row,) = cells(table([first, shorter], by_seed=True))
    assert "top-1 (%), last / best" not in row
    assert (row["iterations"], row["epochs"]) == ("10–40", "0.5–2")
    assert row["s / iteration"] == "0.375"


def test_long_times_are_given_in_hours():
    run = Run(
        name="long",
        train=dict(time=Series(iterations=np.array([36_610]), values=np.array([2.5]))),
        val={},
        iterations_per_epoch=None,
    )
    assert cells(table([run]))[0]["training time"] == "25:25:25"


def test_every_quantity_gets_a_panel(tmp_path):
    heights = []
    memory, time, speed = dict(memory=series(1)), dict(time=series(1)), series(1)
    for more in ({}, memory, memory | time, memory | time | dict(images_per_second=speed)):
        plot([detector(**more)], tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            assert picture.format == "PNG"
            assert picture.width == 1500
            heights.append(picture.height)
    # Loss, boxes, lr; and memory, in the fourth place of a grid of two columns; time; throughput.
    assert heights[0] == heights[1] < heights[2] == heights[3]


def test_every_run_has_its_colour(tmp_path):
    runs = [detector(name, loss=series(*[i] * 4)) for i, name in enumerate("abc", 1)]
    for count in (1, 2, 3):
        plot(runs[:count], tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            assert [has(picture, line_colour(i)) for i in range(3)] == [i < count for i in range(3)]


def test_curves_follow_the_data(tmp_path):
    def picture(run: Run) -> bytes:
        plot([run], tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as file:
            return file.tobytes()

    by_epoch = picture(detector())
    assert by_epoch == picture(detector())
    assert by_epoch != picture(detector(per_epoch=None))
    assert by_epoch != picture(detector(per_epoch=10))


def test_the_axis_can_count_epochs_iterations_or_hours(tmp_path, monkeypatch):
    for x, ends in dict(epochs=(2, 4), iterations=(40, 40), hours=(20 / 3600, 40 / 3600)).items():
        figure = draw(seeds()[::2], tmp_path, monkeypatch, x=x)
        panel = next(axes for axes in figure.axes if axes.get_ylabel() == "accuracy (%)")
        assert panel.get_xlabel() == dict(epochs="epoch", iterations="iteration").get(
            x, "hours of training"
        )
        np.testing.assert_allclose([line.get_xdata()[-1] for line in panel.lines], ends)


def test_seeds_of_a_model_share_a_colour(tmp_path, monkeypatch):
    figure = draw(seeds(), tmp_path, monkeypatch, by_seed=True)
    panel = next(axes for axes in figure.axes if axes.get_ylabel() == "accuracy (%)")
    colours = [line.get_color() for line in panel.lines]
    assert colours[0] == colours[1] != colours[2]
    assert [text.get_text() for text in figure.legends[0].texts] == ["vit", "cnn"]


def draw(runs: list[Run], folder: Path, monkeypatch, **options) -> Figure:
    """The figure that `plot` saves."""
    saved = []
    save = Figure.savefig
    with monkeypatch.context() as patch:
        patch.setattr(
            Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))
        )
        plot(runs, folder / "curves.png", **options)
    return saved[0]


@pytest.mark.parametrize(
    ("x", "match"),
    [
        ("epochs", "--x epochs: b was trained by iterations; take --x iterations or hours"),
        ("hours", "--x hours: the log of b has no times; take --x epochs or iterations"),
    ],
)
def test_an_axis_that_a_run_does_not_count(tmp_path, x, match):
    other = replace(detector("b", per_epoch=None))
    with pytest.raises(UserError, match=match):
        plot([detector("a", time=series(1)), other], tmp_path / "curves.png", x=x)
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("length", [3, 30, 60])
def test_the_names_fit_into_the_picture(tmp_path, length):
    runs = [detector(f"{i}_{('halvit_' * 9)[: length - 2]}") for i in range(5)]
    plot(runs, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        pixels = np.array(picture.convert("L"))
    assert (pixels[:, :8] == 255).all() and (pixels[:, -8:] == 255).all()


def test_long_curves_are_smoothed_and_short_ones_are_not(tmp_path):
    """A smoothed curve has what was logged behind it, in a paler shade of its colour."""
    rng = np.random.default_rng(0)
    pale = tuple(round(0.25 * channel + 0.75 * 255) for channel in line_colour(0))

    def has_pale(length: int) -> bool:
        loss = series(*rng.normal(1, 0.2, length))
        run = Run(name="", train=dict(loss=loss), val={}, iterations_per_epoch=None)
        plot([run], tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            pixels = np.array(picture.convert("RGB"), dtype=int)
        return (np.abs(pixels - pale).max(axis=-1) <= 1).sum() > 500

    assert has_pale(200)
    assert not has_pale(30)


def test_losses_that_diverge_do_not_stop_the_drawing(tmp_path):
    loss = series(1, 2, np.nan, np.inf, *[1.0] * 100)
    plot(
        [Run(name="x", train=dict(loss=loss), val={}, iterations_per_epoch=10)], tmp_path / "x.png"
    )
    assert (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("out", "match"),
    [
        ("curves.pdf", r"curves\.pdf: the picture is a PNG; give a name that ends in \.png"),
        ("folder.png", "there is a folder of this name"),
        ("file/curves.png", "cannot write there"),
    ],
)
def test_unwritable_picture(tmp_path, out, match):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=match):
        plot([detector()], tmp_path / out)


def test_a_failure_leaves_an_earlier_picture_as_it_was(tmp_path):
    out = tmp_path / "curves.png"
    out.write_bytes(b"earlier")
    broken = detector(time=Series(iterations=np.arange(3), values=np.arange(4)))
    with pytest.raises(ValueError, match="dimension"):
        plot([broken], out)
    assert out.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [out]


def test_the_command(root, tmp_path):
    for name in "ab":
        log = tmp_path / name / "20250101_000000" / "vis_data" / "scalars.json"
        log.parent.mkdir(parents=True)
        log.write_text('{"loss": 1.5, "lr": 0.1, "time": 0.2, "iter": 10, "step": 10}\n')
    command = [sys.executable, root / "tools/analyze_run.py", "a", "b"]
    status, output, errors = run([*command, "--markdown", "new/table.md"], tmp_path)
    assert status == 0, errors
    text, last = output.strip().split("\n\n")
    assert [row["run"] for row in cells(text)] == ["a", "b"]
    assert last == f"curves: {Path('a', 'curves.png')}"
    assert (tmp_path / "a" / "curves.png").exists()
    assert (tmp_path / "new" / "table.md").read_text() == text + "\n"


def test_drawing_is_not_loaded_with_the_package_and_opens_no_windows(root, tmp_path):
    code = """
import sys, halvit_mm
assert not any(name.startswith("halvit_mm.visualization") for name in sys.modules)
import halvit_mm.visualization as v, numpy as np
assert "matplotlib" not in sys.modules and "pycocotools" not in sys.modules
loss = v.Series(iterations=np.arange(3), values=np.arange(3.0))
v.plot([v.Run(name="x", train=dict(loss=loss), val=dict(), iterations_per_epoch=None)], "x.png")
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(root), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
