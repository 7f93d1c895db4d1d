"""Cells of the benchmark, measured with real processes on models whose ratio is known."""

from dataclasses import replace

import pytest
from tiny_sources import Dying, Failing, Hungry, Slow, Tied, Tiny, against

from halvit_mm.benchmark import measure
from halvit_mm.benchmark.comparisons import COMPARISONS, QUICK, Comparison
from halvit_mm.benchmark.measure import Settings, alternate, cases, choose, measure_cell
from halvit_mm.benchmark.results import cell_rows
from halvit_mm.benchmark.sources import FromTimm
from halvit_mm.benchmark.start_up import Script, run_script
from halvit_mm.errors import UserError


def cell_of(comparison: Comparison, mode: str, **options) -> dict:
    settings = Settings(modes=[mode], **options)
    (case,) = cases(comparison, settings)
    return measure_cell("tiny", comparison, case, settings)


@pytest.mark.full
def test_a_model_against_itself_and_against_a_slower_one():
    mode = "training"
    comparison = against(Tiny(Slow, 0.02), Tiny(Slow, 0.02), Tiny(Slow, 0.04))
    cell = cell_of(comparison, mode, rounds=3)
    itself, slower = (row for row in cell_rows(cell) if row.measure == f"{mode} time")
    assert itself.ratio == pytest.approx(1, abs=0.3)
    assert slower.ratio == pytest.approx(0.5, abs=0.15)
    assert 0.02 < itself.ours_value < 0.04 < slower.peer_value
    assert cell["steps"] >= 5  # a turn lasts 0.3 s
    assert [len(model["measures"][f"{mode} time"]) for model in cell["models"]] == [3, 3, 3]


@pytest.mark.full
def test_peak_memory_is_of_each_model_by_itself(monkeypatch):
    """Whatever tunes the allocator, and in spite of what others hold.

    From 32 MiB on glibc by default takes memory from the system and gives it back each time.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**33))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", str(2**34))
    comparison = against(Tiny(Hungry, 60), Tiny(Hungry, 120), Tiny(Hungry, 40))
    cell = cell_of(comparison, "inference", rounds=1, steps=1)
    found = [model["measures"]["inference memory"][0] / 2**20 for model in cell["models"]]
    assert found == pytest.approx([60, 120, 40], abs=12)


def test_every_other_round_is_reversed():
    order = [list(alternate("abc", number)) for number in range(3)]
    assert order == [list("abc"), list("cba"), list("abc")]


def test_turns_alternate(monkeypatch):
    """In the calls that go to the processes themselves."""
    calls = []
    turn = measure._Record.turn

    def noting(record, function, *args):
        if function is measure.subject.turn:
            calls.append(record.contestant.label)
        return turn(record, function, *args)

    monkeypatch.setattr(measure._Record, "turn", noting)
    # Else processes with the usual allocator have turns of their own, for memory.
    monkeypatch.setattr(measure, "usual_allocator", dict)
    cell_of(against(Tiny(Tied), Tiny(Tied)), "inference", rounds=3, steps=1)
    assert calls == ["ours", "peer 1", "peer 1", "ours", "ours", "peer 1"]


def test_those_that_fail_are_told_and_the_rest_goes_on():
    broken = [Tiny(Failing, 0.0), Tiny(Dying, 0.0), FromTimm("no_such_model")]
    cell = cell_of(against(Tiny(Tied), *broken, Tiny(Tied)), "inference", rounds=2, steps=1)
    fails, dies, unknown, *rest = cell_rows(cell)
    assert fails.fault == "peer 1: ValueError: out of luck"
    assert dies.fault == "peer 2: the process ended with status 7"
    assert unknown.fault.startswith("peer 3: RuntimeError: Unknown model")
    assert fails.ratio is dies.ratio is unknown.ratio is None
    assert {row.peer for row in rest} == {"peer 4"}
    assert all(row.ratio > 0 for row in rest)
    assert len(cell["models"][0]["measures"]["inference time"]) == 2


@pytest.mark.full
def test_where_ours_fails_nothing_is_compared():
    cell = cell_of(against(Tiny(Failing, 0.0), Tiny(Tied)), "training", rounds=1, steps=1)
    (row,) = cell_rows(cell)
    assert (row.ratio, row.fault) == (None, "ours: ValueError: out of luck")


def test_sizes():
    cell = cell_of(against(Tiny(Tied), Tiny(Slow, 0.0)), "sizes")
    ratios = {row.measure: row.ratio for row in cell_rows(cell)}
    assert ratios["weights"] == (192 * 192 + 2 * 192 + 1930) / 1930
    assert ratios["FLOPs"] == (2 * 192 + 10) / 10


def test_interpreters_are_timed():
    slow = Script("import time; time.sleep(1)", ())
    comparison = replace(
        against(Script("pass", ()), slow, Script("1 / 0", ())), modes=("start-up",)
    )
    cell = cell_of(comparison, "start-up", rounds=2)
    row, failed = cell_rows(cell)
    assert row.measure == "start-up time"
    assert row.ours_value < 1 < row.peer_value
    assert failed.fault == "peer 2: ZeroDivisionError: division by zero"


def test_scripts_of_the_table_build_detectors():
    """Each in a fresh interpreter, the peer's without ours."""
    comparison = COMPARISONS["start_up"]
    for contestant, ours in ((comparison.ours, True), (comparison.peers[0], False)):
        code = contestant.source.code.replace("MODELS.build(", "model = MODELS.build(")
        check = f"import sys; assert ('halvit_mm.backbones' in sys.modules) is {ours}"
        kind = "HaLViT" if ours else "SwinTransformer"
        check += f"; assert type(model.backbone).__name__ == {kind!r}"
        assert run_script(Script(f"{code}\n{check}"), {}) > 0


def test_cases_of_a_comparison():
    comparison = COMPARISONS["half_resnet50"]
    found = cases(comparison, Settings(dtypes=["fp32", "bf16"], channels_last=True, threads=3))
    assert len(found) == 2 * 3 * 2 + 1
    assert {case.batch for case in found if case.mode == "training"} == {1, 8, 32}
    assert all(case.channels_last and case.threads == 3 for case in found)
    settings = Settings(modes=["inference"], batches=[5], backends=["compile"], channels_last=True)
    (case,) = cases(COMPARISONS["halvit_tiny"], settings)
    assert (case.batch, case.backend, case.channels_last) == (5, "compile", False)
    (case,) = cases(COMPARISONS["start_up"], Settings())
    assert case.mode == "start-up"


def test_choosing():
    assert list(choose([], COMPARISONS, Settings())) == list(COMPARISONS)
    chosen = choose([], COMPARISONS, Settings(peers=["timm", "torchvision"]))
    assert "mask_rcnn_halvit" not in chosen
    assert [peer.label for peer in chosen["halvit_tiny"].peers] == ["timm ViT-S"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["halvit_huge"], {}, r"no comparison 'halvit_huge'; choose from .*halvit_tiny"),
        ([], dict(peers=["tensorflow"]), r"--peers tensorflow: no comparison has such a peer"),
        (["halvit_tiny"], dict(channels_last=True), r"--channels-last is for convolutional"),
        (["halvit_tiny"], dict(device="cuda"), r"--device cuda: torch sees no CUDA device"),
        (["halvit_tiny"], dict(backends=["compile"]), r"needs a C\+\+ compiler; install g\+\+"),
    ],
)
def test_mistakes_are_told_before_anything_runs(names, options, message, monkeypatch):
    monkeypatch.setattr(measure.shutil, "which", lambda name: None)
    monkeypatch.setattr(measure.torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        choose(names, COMPARISONS, Settings(**options))


@pytest.mark.parametrize(
    ("package", "cure"),
    [("timm", "pip install timm"), ("mmpretrain", r"pip install halvit_mm\[onedl\]")],
)
def test_a_missing_package_is_told_with_its_cure(package, cure, monkeypatch):
    find = measure.find_spec
    monkeypatch.setattr(measure, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError, match=f"{package} ViT-S, which needs {package}: {cure}"):
        choose(["halvit_tiny"], COMPARISONS, Settings())
    assert choose(["half_resnet50"], COMPARISONS, Settings())


def test_stochastic_depth_is_the_same_on_both_sides():
    """Which is why a peer's rate is in the table: it must be that of our config."""
    compared = 0
    for comparison in COMPARISONS.values():
        for peer in comparison.peers:
            options = getattr(peer.source, "options", {})
            keys = [key for key in options if key.endswith("drop_path_rate")]
            if keys:
                rate = comparison.ours.source.config().model.backbone.get("drop_path_rate", 0.0)
                assert options[keys[0]] == rate, comparison.ours.label
                compared += 1
    assert compared >= 12


def test_targets_name_what_is_measured():
    """A misspelt measure would never be judged."""
    known = {f"{mode} {what}" for mode in ("inference", "training") for what in ("time", "memory")}
    known |= {"start-up time"}
    parts = ("weights", "gradients", "optimiser state", "checkpoint", "all-reduced")
    known |= {f"{measure}, backbone" for measure in parts}
    targets = [t for c in COMPARISONS.values() for peer in c.peers for t in peer.targets]
    assert len(targets) > 20
    assert {target.measure for target in targets} == known - {"inference memory"}


def test_quick_measures_all_modes():
    modes = {mode for comparison in QUICK.values() for mode in comparison.modes}
    assert modes == {mode for comparison in COMPARISONS.values() for mode in comparison.modes}
