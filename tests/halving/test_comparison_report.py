"""What the comparison of halved models shows, from given accuracies."""

import json
import socket
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from halvit_mm.halving.comparison import chart as chart_module
from halvit_mm.halving.comparison.chart import chart
from halvit_mm.halving.comparison.experiment import Experiment
from halvit_mm.halving.comparison.report import Report
from halvit_mm.halving.comparison.results import Result, Results
from halvit_mm.halving.comparison.targets import Target, targets

#: Two seeds of everything; every target is met.
GOOD = {
    ("dense", 4000): (48.0, 49.0),
    ("dense-continued", 1000): (48.25, 48.75),
    ("scratch", 250): (28.0, 30.0),
    ("scratch", 1000): (35.0, 36.0),
    ("scratch", 4000): (44.0, 45.0),
    ("scratch-distilled", 250): (29.0, 30.0),
    ("scratch-distilled", 1000): (37.0, 38.0),
    ("scratch-distilled", 4000): (45.0, 46.0),
    ("narrow-selected", 0): (34.0, 35.0),
    ("narrow-selected", 250): (38.0, 39.0),
    ("narrow-selected", 1000): (41.0, 42.0),
    ("narrow-selected", 4000): (45.0, 45.5),
    ("halved-average", 0): (12.0, 14.0),
    ("halved-average", 250): (30.0, 31.0),
    ("halved-average", 1000): (38.0, 39.0),
    ("halved-average", 4000): (45.5, 46.0),
    ("halved-aligned", 0): (15.0, 17.0),
    ("halved", 0): (40.0, 41.0),
    ("halved", 250): (43.0, 43.5),
    ("halved", 1000): (45.0, 45.5),
    ("halved", 4000): (47.0, 47.5),
    ("halved-distilled", 250): (43.5, 44.0),
    ("halved-distilled", 1000): (48.0, 48.0),
    ("halved-distilled", 4000): (48.0, 48.5),
}
FEWER = "halved-distilled reaches scratch in at most 25% of its steps"
NEAR = "halved-distilled ends within 0.5 of the dense twin"
CONTINUED = "halved-distilled ends within 0.5 of dense-continued"
EQUAL = "halved-distilled within 0.5 of dense-continued, both 25% further"
UNTRAINED = "reconstruction above average, right after halving"


@pytest.fixture
def experiment(tmp_path, root) -> Experiment:
    configs = root / "configs/halving"
    return Experiment(
        dense=configs / "dense_vit_cifar10.py",
        half=configs / "half_vit_cifar10.py",
        distilled=tmp_path / "taught.py",
        narrow=configs / "narrow_vit_cifar10.py",
        work_dir=tmp_path / "out",
        steps=4000,
    )


def results(values: dict) -> Results:
    return Results(
        Result(
            arm=arm, seed=seed, steps=steps, accuracy=accuracy, config="c.py", command="python t.py"
        )
        for (arm, steps), accuracies in values.items()
        for seed, accuracy in enumerate(accuracies)
        if accuracy is not None
    )


def without(*keys: tuple[str, int]) -> dict:
    return {key: value for key, value in GOOD.items() if key not in keys}


def judged(experiment: Experiment, values: dict) -> dict[str, Target]:
    return {target.title: target for target in targets(experiment, results(values))}


def test_all_targets_can_be_met(experiment):
    found = judged(experiment, GOOD)
    assert len(found) == 11
    assert all(target.met is True for target in found.values()), found
    assert found[FEWER].found == (
        "halved-distilled at 1000 48.00, scratch at 4000 44.50: +3.50 (2 seeds)"
    )
    assert found[NEAR].found.endswith(": -0.25 (2 seeds)")


@pytest.mark.parametrize(
    ("key", "values", "missed"),
    [
        (("halved", 0), (12.0, 13.9), {UNTRAINED}),
        (("halved", 0), (13.0, 13.0), {UNTRAINED}),  # as good is not better
        (("halved-average", 1000), (50.0, 50.0), {"reconstruction above average, 1000 steps"}),
        (("halved-distilled", 1000), (44.0, 44.98), {FEWER, EQUAL}),
        (("dense", 4000), (48.74, 48.77), {NEAR}),
        (("dense-continued", 1000), (48.76, 48.76), {CONTINUED, EQUAL}),
        (("scratch", 250), (43.25, 43.25), {"halved above scratch, 250 steps"}),
        (("halved-distilled", 4000), (47.7, 47.9), {NEAR, CONTINUED}),
    ],
)
def test_a_target_is_missed(experiment, key, values, missed):
    found = judged(experiment, GOOD | {key: values})
    assert {title for title, target in found.items() if target.met is False} == missed
    assert all(target.met is not None for target in found.values())


def test_limits_belong_to_the_targets(experiment):
    exact = {("dense", 4000): (48.75, 48.75), ("halved-distilled", 4000): (48.25, 48.25)}
    assert judged(experiment, GOOD | exact)[NEAR].met is True
    reached = {("halved-distilled", 1000): (44.5, 44.5)}
    assert judged(experiment, GOOD | reached)[FEWER].met is True


def test_the_shortest_training_that_reaches_it_counts(experiment):
    found = judged(experiment, GOOD | {("halved-distilled", 250): (46.0, 46.0)})[FEWER]
    assert found.met and found.found.startswith("halved-distilled at 250 46.00")


@pytest.mark.parametrize(
    ("absent", "unjudged"),
    [
        ([("dense", 4000)], {NEAR}),
        ([("scratch", 4000)], {FEWER, "halved above scratch, 4000 steps"}),
        ([("halved-distilled", 1000)], {FEWER, EQUAL}),
        ([("halved-average", 0)], {UNTRAINED}),
        (list(GOOD), None),
    ],
)
def test_what_was_not_run_is_not_judged(experiment, absent, unjudged):
    found = judged(experiment, without(*absent))
    expected = set(found) if unjudged is None else unjudged
    assert {title for title, target in found.items() if target.met is None} == expected
    assert all(found[title].found == "" for title in expected)


def test_only_seeds_of_both_sides_are_compared(experiment):
    values = GOOD | {("halved", 0): (20.0, None), ("halved-average", 0): (19.0, 90.0)}
    found = judged(experiment, values)[UNTRAINED]
    assert found.met and found.found.endswith("+1.00 (1 seed)")
    apart = GOOD | {("halved", 0): (20.0, None), ("halved-average", 0): (None, 19.0)}
    assert judged(experiment, apart)[UNTRAINED].met is None


def test_distilled_averages_are_judged_where_they_were_run(experiment):
    values = GOOD | {("halved-average-distilled", 250): (50.0, 50.0)}
    title = "reconstruction above average, both distilled, 250 steps"
    assert judged(experiment, values)[title].met is False
    assert title not in judged(experiment, GOOD)


def report(experiment: Experiment, values: dict, **failures: str) -> Report:
    return Report(
        experiment=experiment,
        results=results(values),
        parameters={"dense": 468586, "half": 247402, "narrow": 247375},
        failures=failures,
    )


def cells(markdown: str, row: str) -> list[str]:
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in markdown.splitlines()]
    (found,) = [line[1:] for line in lines if line[:1] == [row]]
    return found


def test_the_tables(experiment):
    values = without(("scratch", 250), ("halved-aligned", 0)) | {("halved", 1000): (45.0, None)}
    text = report(experiment, values, **{"seed1/halved_1000": "failed with status 1\n  trace"})
    text = text.markdown()
    assert cells(text, "arm") == ["parameters", "250", "1000", "4000"]
    assert cells(text, "dense") == ["468,586", "–", "–", "48.50 ± 0.50"]
    assert cells(text, "scratch") == ["247,402", "not run", "35.50 ± 0.50", "44.50 ± 0.50"]
    assert cells(text, "halved")[2] == "45.00 (1 of 2 seeds)"
    assert cells(text, "dense-continued") == ["468,586", "–", "48.50 ± 0.25", "–"]
    assert cells(text, "narrow-selected")[0] == "247,375"
    assert cells(text, "halved, average") == ["13.00 ± 1.00"]
    assert cells(text, "halved, aligned") == ["not run"]
    assert cells(text, "narrow, selected") == ["34.50 ± 0.50"]
    assert cells(text, NEAR)[1] == "met"
    assert cells(text, "halved above scratch, 250 steps") == ["–", "not run"]
    assert "- seed1/halved_1000: failed with status 1" in text
    assert "halved-aligned" not in text  # not among the usual arms, and not trained
    more = report(experiment, GOOD | {("halved-aligned", 250): (40.0, 40.0)}).markdown()
    assert cells(more, "halved-aligned") == ["247,402", "40.00 ± 0.00", "not run", "not run"]


def test_files_name_nothing_of_this_machine(experiment, tmp_path, monkeypatch, root):
    command = [str(root / "tools/x.py"), str(experiment.dense), "--work-dir"]
    monkeypatch.setattr("sys.argv", [*command, str(experiment.work_dir)])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    fault = f"{experiment.work_dir}/seed1: broken"
    text = report(experiment, GOOD, **{"seed1/halved_1000": fault}).write()
    folder = experiment.work_dir
    assert (folder / "comparison.md").read_text() == text
    content = json.loads((folder / "comparison.json").read_text())
    assert content["experiment"]["configs"] == {
        "dense": "configs/halving/dense_vit_cifar10.py",
        "half": "configs/halving/half_vit_cifar10.py",
        "distilled": "taught.py",
        "narrow": "configs/halving/narrow_vit_cifar10.py",
    }
    assert len(content["results"]) == 2 * len(GOOD)
    assert content["results"][0] == {
        "arm": "dense", "seed": 0, "steps": 4000, "accuracy": 48.0, "config": "c.py",
        "command": "python t.py",
    }  # fmt: skip
    assert content["machine"]["command"] == (
        "python tools/x.py configs/halving/dense_vit_cifar10.py --work-dir DIR"
    )
    assert content["failures"] == {"seed1/halved_1000": "DIR/seed1: broken"}
    assert {target["met"] for target in content["targets"]} == {True}
    for file in ("comparison.md", "comparison.json"):
        written = (folder / file).read_text()
        assert str(tmp_path) not in written and str(root) not in written, file
        assert socket.gethostname() not in written, file


def test_parameters_are_those_of_the_configs(experiment, root):
    counted = Report.of(replace(experiment, distilled=None), results({}), {}).parameters
    assert counted.keys() == {"dense", "half", "narrow"}
    assert abs(counted["half"] / counted["narrow"] - 1) < 0.01
    assert counted["dense"] > 1.8 * counted["half"]


@pytest.mark.parametrize("values", [GOOD, {}, {("scratch", 250): (30.0, None)}])
def test_there_is_a_picture_whatever_was_run(experiment, tmp_path, values):
    chart(experiment, results(values), tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png").convert("L"))
    assert pixels.shape == (810, 1500)
    assert (pixels < 128).any()


def test_what_the_picture_shows(experiment):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    values = without(("scratch-distilled", 250), ("scratch-distilled", 1000))
    chart_module._draw(axes, experiment, results(values | {("scratch-distilled", 4000): (None,)}))
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["halved"].get_ydata() == pytest.approx([43.25, 45.25, 47.25])
    assert lines["halved"].get_xdata() == pytest.approx([250, 1000, 4000], rel=0.15)
    assert list(lines["dense twin, 4000 steps"].get_ydata()) == [48.5, 48.5]
    assert len(lines["scratch-distilled (not run)"].get_xdata()) == 0
    assert "halved-aligned" in axes.get_legend_handles_labels()[1]  # a single point
    untrained = [
        y
        for line in axes.get_lines()
        for x, y in line.get_xydata()
        if x < 110 and y in (40.5, 16.0)
    ]
    assert set(untrained) == {40.5, 16.0}
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "250", "1,000", "4,000"]
