"""The tables of the comparisons of halved models, from their stored results."""

from collections.abc import Callable
from pathlib import Path

from ..halving.comparison.experiment import Experiment
from ..halving.comparison.report import Report
from ..halving.comparison.results import Result, Results
from .experiments import CORRECTIONS
from .logs import Logs
from .tables import markdown, table

COMPARISONS = ("tinyimagenet", "cifar10", "resnet50_cifar10")


def comparison(logs: Logs, name: str) -> Report:
    """A stored comparison, to be shown again."""
    content = logs.json(f"halving/{name}/comparison")
    about = dict(content["experiment"])
    configs = {key: Path(path) for key, path in about.pop("configs").items()}
    experiment = Experiment(
        **configs,
        work_dir=Path("DIR").absolute(),
        **{key: tuple(v) if isinstance(v, list) else v for key, v in about.items()},
    )
    return Report(
        experiment=experiment,
        results=Results(Result(**one) for one in content["results"]),
        parameters=content["parameters"],
        failures={},
    )


def _part(name: str, number: int) -> Callable[[Logs], str]:
    """One of a report's tables: accuracies, starts, targets. What was not run is left out."""

    def make(logs: Logs) -> str:
        blocks = comparison(logs, name).markdown().split("\n\n")
        lines = [block for block in blocks if block.startswith("|")][number].splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        found = slice(2, None) if number == 0 else slice(-1, None)
        run = [row for row in rows[2:] if not set(row[found]) <= {"not run", "–"}]
        return markdown(rows[0], run)

    return make


for _name in COMPARISONS:
    for _number, _what in enumerate(("accuracy", "start", "targets")):
        table(f"halving_{_name}_{_what}", f"halving/{_name}/comparison")(_part(_name, _number))

_USUAL = "halving/tinyimagenet/seed0_reconstruction"
_TITLES = {
    "faithful": "as published",
    "signed": "with signs",
    "faithful_scale": "`second_scale`",
    "faithful_scale_rank4": "`second_scale`, `second_rank=4`",
    "signed_scale": "with signs, `second_scale`",
    "signed_rank4": "with signs, `second_rank=4`",
    "signed_ffn_only": "with signs, only the feed-forward tied",
}


@table("corrections", "halving/corrections/*", _USUAL)
def corrections(logs: Logs) -> str:
    """Corrections of the second use: their size and what they bring."""
    rows = []
    for name, title in _TITLES.items():
        known = name in CORRECTIONS
        log = f"halving/corrections/{name}" if known else _USUAL
        one = logs.json(log)
        rows.append(
            (title, f"{one['parameters_half']:,}", f"{one['corrections']:,}",
             f"{100 * one['agreement']:.1f}%", f"{one['units'][-1]['error']:.3f}")
        )  # fmt: skip
    header = ("half model", "parameters", "of them corrections", "same class as the dense model",
              "error of the last block")  # fmt: skip
    return markdown(header, rows)
