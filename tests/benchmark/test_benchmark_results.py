"""Ratios, verdicts, tables and charts that follow from measured values."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halvit_mm.benchmark.chart import chart
from halvit_mm.benchmark.report import line, markdown
from halvit_mm.benchmark.results import Results, quartiles, rows
from halvit_mm.benchmark.run import Outputs, render
from halvit_mm.errors import UserError

RUN = {
    "date": "2026-11-22T10:00:00+00:00", "cpu": "a processor", "gpu": None, "cores": 4,
    "threads": 2, "device": "cpu", "python": "3.11", "versions": {"torch": "2.11"},
    "environment": {"OMP_WAIT_POLICY": "PASSIVE"}, "command": "python tools/benchmark.py",
    "peaks": {"fp32": 1e9, "bf16": 2e9, "bytes": 1e8},
}  # fmt: skip


def cell(mode: str = "inference", *, models: list, comparison: str = "halvit_tiny", **case) -> dict:
    usual = dict(batch=8, dtype="fp32", backend="eager", device="cpu", channels_last=False)
    return dict(comparison=comparison, mode=mode, threads=2, **{**usual, **case}, models=models)


def model(label: str, **measures: list) -> dict:
    return {"label": label, "measures": {k.replace("_", " "): v for k, v in measures.items()}}


def results(*cells: dict) -> Results:
    found = Results()
    found.start_run(RUN)
    for one in cells:
        found.add(one)
    return found


TIMES = cell(
    models=[
        model("HaLViT-tiny", inference_time=[1.0, 2.0, 3.0, 4.0, 5.0]),
        model("timm ViT-S", inference_time=[1.0, 2.0, 2.0, 2.0, 2.0]),
        model("mmpretrain ViT-S", inference_time=[2.0, 4.0, 6.0, 8.0, 9.0]),
    ]
)


def test_ratios_are_formed_in_each_round():
    timm, mmpretrain = rows(results(TIMES))
    # Of 1, 1, 1.5, 2, 2.5; the ratio of the medians is 1.5 as well, those of the others not.
    assert (timm.low, timm.ratio, timm.high) == (1, 1.5, 2)
    assert (timm.ours_value, timm.peer_value) == (3, 2)
    assert (mmpretrain.low, mmpretrain.ratio, mmpretrain.high) == (0.5, 0.5, 0.5)


def test_drift_of_the_machine_leaves_the_ratio_alone():
    drifting = cell(
        models=[
            model("HaLViT-tiny", inference_time=[1, 2, 4, 8]),
            model("timm ViT-S", inference_time=[2, 4, 8, 16]),
        ]
    )
    (row,) = rows(results(drifting))
    assert (row.low, row.ratio, row.high) == (0.5, 0.5, 0.5)


def test_quartiles():
    assert quartiles([5.0]) == (5, 5, 5)
    assert quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)
    assert quartiles([4, 1]) == (1.75, 2.5, 3.25)


@pytest.mark.parametrize(("ours", "met"), [(0.99, True), (1.0, True), (1.001, False)])
def test_verdicts_on_the_target_of_the_table(ours, met):
    pair = [model("HaLViT-tiny", inference_time=[ours]), model("timm ViT-S", inference_time=[1.0])]
    found = results(cell(models=pair))
    (row,) = rows(found)
    assert (row.target, row.met) == (1.00, met)
    text = markdown(found)
    assert f"{int(met)} of 1 targets are met." in text
    assert ("| **no**" in text) is not met
    assert f"{row.ratio:.3f}, target ≤ 1.00 {'met' if met else 'missed'}" in line(row)


def test_a_target_for_one_batch_size_only():
    def memory(batch: int) -> dict:
        pair = [
            model("HaLViT-medium", training_memory=[9e8]),
            model("timm ViT-B", training_memory=[1e9]),
        ]
        return cell("training", models=pair, comparison="halvit_medium", batch=batch)

    found = rows(results(memory(1), memory(8)))
    assert [(row.target, row.met) for row in found] == [(None, None), (0.85, False)]


def test_error_of_bf16_is_judged_by_all_peers_together():
    """Ours is larger than that of one peer, but within what peers make."""
    found = rows(
        results(
            cell(
                "sizes",
                models=[
                    model("HaLViT-tiny", bf16_error=[0.02, 0.03, 0.04]),
                    model("timm ViT-S", bf16_error=[0.01, 0.01, 0.01]),
                    model("dense twin", bf16_error=[0.01, 0.02, 0.05]),
                ],
            )
        )
    )
    assert [row.target for row in found] == [None, None, 1.0]
    assert found[-1].ratio == pytest.approx(0.03 / 0.05)
    assert found[-1].met


def test_what_failed_is_told():
    broken = {"label": "timm ViT-S", "measures": {"inference time": [1.0]}, "error": "no memory"}
    found = results(cell(models=[model("HaLViT-tiny", inference_time=[1.0, 1.0]), broken]))
    (row,) = rows(found)
    assert row.ratio is None and row.met is None
    assert "halvit_tiny: inference, batch 8, fp32, eager, to timm ViT-S: failed" in markdown(found)
    assert "timm ViT-S: no memory" in markdown(found)


def test_roofline():
    """Of 1 GFLOP/s and 100 MB/s: two seconds for 1 GFLOP and 40 MB."""
    one = model("HaLViT-tiny", inference_time=[2.0], FLOPs=[1e9], bytes_moved=[4e7])
    text = markdown(results(cell(models=[one, one])))
    row = next(line for line in text.splitlines() if "0.5 G" in line)
    cells = [text.strip() for text in row.split("|")]
    assert cells[4:-1] == ["2.00 s", "1 G", "38.15 MiB", "0.5 G", "50%", "0.02 G", "20%", "50%"]
    assert "reached by matrix products" in text


def test_the_machine_is_named():
    text = markdown(results(TIMES))
    assert "a processor, 2 of 4 cores" in text and "torch 2.11" in text
    assert "`OMP_WAIT_POLICY=PASSIVE python tools/benchmark.py`" in text


def test_files_are_put_together(tmp_path):
    again = cell(models=[model(m["label"], inference_time=[1.0]) for m in TIMES["models"]])
    other = cell("training", models=[model("HaLViT-tiny", training_time=[1.0])])
    for name, cells in (("first", [TIMES]), ("second", [again, other])):
        results(*cells).write(tmp_path / name / "x.json")
    both = Results.read([tmp_path / "first/x.json", tmp_path / "second/x.json"])
    assert len(both.runs) == 2
    assert [(one["mode"], one["run"]) for one in both.cells] == [("inference", 1), ("training", 1)]
    assert rows(both)[0].ratio == 1
    # With other peers it is no repetition.
    only_timm = {**again, "models": again["models"][:2]}
    results(only_timm).write(tmp_path / "third.json")
    assert len(Results.read([tmp_path / "first/x.json", tmp_path / "third.json"]).cells) == 2


@pytest.mark.parametrize("text", ["nothing", "[]", '{"runs": []}', None])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"x\.json: (this holds no results|No such file)"):
        Results.read([path])


def test_chart(tmp_path):
    chart(rows(results(TIMES)), tmp_path / "small.png")
    memory = cell("training", models=[model("HaLViT-tiny", training_memory=[1e9]),
                                      model("timm ViT-S", training_memory=[2e9])])  # fmt: skip
    chart(rows(results(TIMES, memory)), tmp_path / "large.png")
    small, large = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
        for name in ("small", "large")
    )
    assert small.shape[1] == large.shape[1] == 1500
    assert large.shape[0] > small.shape[0] + 100
    red, green, blue = np.moveaxis(small, 2, 0)
    target = (red > 150) & (green < 90) & (blue < 90)
    # Two targets in one panel, 1.00 and 0.97, lie side by side: both left of 1.1.
    assert 20 < target.sum() < 3000
    # The bar of 1.5 is three times as long as that of 0.5.
    bars = ((blue > red + 60) & (blue > 150)).sum(1)
    lengths = sorted({length for length in bars if length > 50})
    assert lengths[-1] == pytest.approx(3 * lengths[0], rel=0.15)


def test_all_files_are_written(tmp_path):
    outputs = Outputs.in_folder(tmp_path / "new")
    text = render(results(TIMES), outputs)
    assert outputs.markdown.read_text() == text
    assert json.loads(outputs.json.read_text())["cells"][0]["comparison"] == "halvit_tiny"
    assert outputs.chart.stat().st_size > 5000
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "benchmark.json", "benchmark.md", "benchmark.png"
    ]  # fmt: skip


def test_nothing_to_draw_writes_no_chart(tmp_path):
    failed = cell(models=[{**model("ours"), "error": "x"}, model("peer")])
    render(results(failed), Outputs.in_folder(tmp_path))
    assert not (tmp_path / "benchmark.png").exists()
    assert (tmp_path / "benchmark.md").exists()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (Outputs(chart=Path("x.jpg")), r"x\.jpg: the chart is a PNG"),
        (Outputs(json=Path("/")), "there is a folder of this name"),
        (Outputs(markdown=Path("/dev/null/x.md")), "cannot write there"),
    ],
)
def test_a_wrong_path_is_told_before_the_work(outputs, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        outputs.check()
