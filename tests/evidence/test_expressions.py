"""Formulas over stored values, and what they refuse."""

import json

import pytest

from halvit_mm.errors import UserError
from halvit_mm.evidence.expressions import evaluate
from halvit_mm.evidence.logs import Logs


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for seed, top1 in ((0, 40.0), (1, 42.0)):
        scalars = folder / f"run_seed{seed}/20260101_000000/vis_data/scalars.json"
        scalars.parent.mkdir(parents=True)
        lines = [
            dict(loss=2.0, time=0.5, epoch=1, iter=10, step=10),
            dict(loss=1.0 + seed, time=0.5, epoch=1, iter=100, step=100),
            {"accuracy/top1": top1, "time": 1.0, "step": 1},
        ]
        scalars.write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = dict(models=[dict(name="a", bytes=[3, 5]), dict(name="b", bytes=[8])], flag=True)
    (folder / "sizes.json").write_text(json.dumps(content))
    return Logs(folder)


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("'run_seed0#top1'", 40),
        ("'run_seed0#top1' - 'run_seed1#top1'", -2),
        ("mean('run_seed*#top1')", 41),
        ("half_range('run_seed*#top1')", 1),
        ("mean('run_seed*#loss#tail')", 1.5),
        ("'run_seed0#seconds'", 50),
        ("max('sizes#models#*#bytes')", 8),
        ("'sizes#models#name=b#bytes' / 'sizes#models#0#bytes#0'", 8 / 3),
        ("-(2 + 3 * 4) / 7", -2),
        ("median('sizes#models#name=a#bytes', 1)", 3),
    ],
)
def test_values(logs, formula, value):
    assert evaluate(formula, logs) == pytest.approx(value)


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("__import__('os').getcwd()", "are understood"),
        ("open('sizes.json')", "are understood"),
        ("(lambda: 1)()", "are understood"),
        ("mean(values='run_seed0#top1')", "are understood"),
        ("2 ** 99999999", "are understood"),
        ("True", "are understood"),
        ("mean(", "cannot be read"),
        ("'run_seed*#top1'", "has 2 values"),
        ("'nothing#top1'", "no log is called nothing"),
        ("'run_seed0#top5'", "no such number"),
        ("'sizes#flag'", "no such number"),
        ("'sizes#models#name=c#bytes'", "no such number"),
    ],
)
def test_what_it_refuses(logs, formula, says):
    with pytest.raises(UserError, match=says):
        evaluate(formula, logs)
