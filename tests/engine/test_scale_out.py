"""Two processes that train one model, against a single one with the same images at each update."""

import sys
from collections.abc import Iterable
from typing import Any

import pytest
import scale_out
import torch
from processes import start
from scale_out import BACKBONES, CASES, SHARDED, WaveTask

from halvit_mm.engine.sharding import UNITS

#: Rounding in 64 bits, relative to the largest number of what is compared.
TOLERANCE = 1e-9
Results = dict[str, dict[str, Any]]


#: What others cover, too, comes with --full.
FULL = {
    *(name for name in CASES | SHARDED if not name.endswith((" all", " clipped"))),
    *(name for name in SHARDED if name.startswith(("MiniDeiT", "HalfResNeXt"))),
}


def cases(names: Iterable[str]) -> pytest.MarkDecorator:
    marks = {True: [pytest.mark.full], False: []}
    return pytest.mark.parametrize(
        "case", [pytest.param(name, marks=marks[name in FULL]) for name in names]
    )


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, root, request) -> tuple[Results, Results]:
    """What each of two processes has after all cases; they start once, as that takes long."""
    folder = tmp_path_factory.mktemp("two")
    env = {"PYTHONPATH": f"{root}:{root / 'tests'}", "CUDA_VISIBLE_DEVICES": ""}
    skipped = set() if request.config.getoption("--full") else FULL
    wanted = [name for name in CASES | SHARDED if name not in skipped]
    processes = [
        start(
            [sys.executable, root / "tests/scale_out.py", folder, rank, *wanted],
            folder,
            **env,
            LOCAL_RANK=str(rank),
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=500)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return tuple(torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2))


@pytest.fixture
def by_one(tmp_path, monkeypatch, request) -> dict[str, Any]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(scale_out, "distributed", None)  # nothing to share with anybody
    options = (CASES | SHARDED)[request.node.callspec.params["case"]]
    yield scale_out.train(tmp_path / "one", **options)
    torch.set_default_dtype(before)


def difference(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest expected number."""
    assert given.keys() == expected.keys()
    scale = max(value.abs().max() for value in expected.values() if value.numel())
    return float(max((given[name] - expected[name]).abs().max() for name in expected) / scale)


@cases(CASES)
def test_two_processes_train_as_one(by_two, by_one, case, record_property):
    updates = 4 // CASES[case].get("counts", 1)
    worst = {}
    for kind in ("gradients", "averages", "weights"):
        ours, other = by_two[0][case][kind], by_two[1][case][kind]
        expected = by_one[kind]
        if kind == "weights":
            ours, other, expected = [ours], [other], [expected]
        pairs = list(zip(ours, other, expected, strict=True))
        for one, two, single in pairs:
            assert difference(one, two) == 0, "the processes have grown apart"
            worst[kind] = max(worst.get(kind, 0.0), difference(one, single))
        assert (
            len(pairs)
            == {
                "gradients": updates,
                "averages": 4 if CASES[case].get("ema") else 0,
                "weights": 1,
            }[kind]
        )
    # What is compared has moved, and the averages are no weights.
    assert by_one["gradients"][0].keys() == by_one["gradients"][-1].keys()
    assert difference(by_one["gradients"][-1], by_one["gradients"][0]) > 1e-3
    if CASES[case].get("ema"):
        assert difference(by_one["averages"][-1], by_one["weights"]) > 1e-6
    record_property("differences", worst)
    assert max(worst.values()) <= TOLERANCE, worst
    assert by_two[0][case]["without"] == by_two[1][case]["without"] == set()


@cases(SHARDED)
def test_divided_weights_train_as_whole_ones(by_two, by_one, case, record_property):
    """By gradients, by decay and clipping, and by the whole weights of a checkpoint."""
    ours = by_two[0][case]
    tolerance = 1e-5 if SHARDED[case].get("clip") else TOLERANCE
    assert len(ours["gradients"]) == len(by_one["gradients"]) > 1
    pairs = [*zip(ours["gradients"], by_one["gradients"], strict=True)]
    worst = max(difference(*pair) for pair in pairs)
    weights = difference(ours["weights"], by_one["weights"])
    record_property("differences", dict(gradients=worst, weights=weights))
    assert max(worst, weights) <= tolerance
    assert by_two[1][case]["without"] == ours["without"] == set()


@cases(SHARDED)
def test_divided_weights_are_saved_whole_and_resumed(by_two, case):
    """A checkpoint loads strictly into an ordinary model; a resumed training ends with its bits."""
    ours, options = by_two[0][case], SHARDED[case]
    model = WaveTask(backbone=BACKBONES[options["family"]])
    model.load_state_dict(ours["weights"], strict=True)
    assert ours["resumed"].keys() == ours["weights"].keys()
    for name, value in ours["weights"].items():
        assert torch.equal(ours["resumed"][name], value), name


@cases(SHARDED)
def test_each_shared_weight_lies_in_one_unit_with_all_of_its_uses(by_two, case):
    """A unit gathers its weights while it runs; used outside, they would be shards."""
    units = by_two[0][case]["units"]
    model = WaveTask(backbone=BACKBONES[SHARDED[case]["family"]])
    blocks = [module for module in model.modules() if isinstance(module, UNITS)]
    expected = [sorted(n for n, _ in block.named_parameters()) for block in blocks]
    assert len(blocks) > 1
    assert sorted(units) == sorted([*expected, sorted(_outside(model, blocks))])


def _outside(model: WaveTask, blocks: list[torch.nn.Module]) -> list[str]:
    inside = {id(p) for block in blocks for p in block.parameters()}
    return [name for name, p in model.named_parameters() if id(p) not in inside]
