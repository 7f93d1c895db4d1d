"""The experiment's results as JSON and as Markdown."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...benchmark import machine
from ...engine.config_errors import load_config
from ...files import temporary_beside
from .chart import chart
from .experiment import ARMS, METHODS, USUAL_ARMS, Experiment, arm_of
from .results import Results, Spread
from .targets import Target, targets

_NOT_RUN = "not run"
_NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is shown.

    Attributes:
        experiment: What was to be run.
        results: What came of it.
        parameters: Parameters of the models, by the names of the configs.
        failures: Why parts failed, by their names.
    """

    experiment: Experiment
    results: Results
    parameters: Mapping[str, int]
    failures: Mapping[str, str]

    @classmethod
    def of(cls, experiment: Experiment, results: Results, failures: Mapping[str, str]) -> "Report":
        """Counts the parameters as well."""
        from ...analysis.weightless import build_without_weights

        configs = {n: path for n, path in experiment.configs.items() if n != "distilled"}
        models = {name: build_without_weights(load_config(path)) for name, path in configs.items()}
        parameters = {n: sum(p.numel() for p in model.parameters()) for n, model in models.items()}
        return cls(experiment=experiment, results=results, parameters=parameters, failures=failures)

    @property
    def arms(self) -> list[str]:
        """The usual arms, run or not, and what there is of the others."""
        shown = {*USUAL_ARMS, *self.experiment.arms, *(r.arm for r in self.results.all if r.steps)}
        return [arm for arm in ARMS if arm in shown]

    def write(self) -> str:
        """Writes ``comparison.json``, ``.md`` and ``.png`` in the comparison's folder.

        Returns:
            The Markdown.

        Raises:
            UserError: A file cannot be written.
        """
        folder, text = self.experiment.work_dir, self.markdown()
        _write(folder / "comparison.json", json.dumps(self.content(), indent=1) + "\n")
        _write(folder / "comparison.md", text)
        chart(self.experiment, self.results, folder / "comparison.png")
        return text

    def content(self) -> dict[str, Any]:
        """What the JSON file holds; no path and no name of this machine."""
        experiment = self.experiment
        return {
            "experiment": {
                "configs": {n: experiment.shown(str(p)) for n, p in experiment.configs.items()},
                "steps": experiment.steps,
                "budgets": experiment.budgets,
                "seeds": experiment.seeds,
                "arms": experiment.arms,
                "methods": experiment.methods,
            },
            "machine": _machine(experiment),
            "parameters": dict(self.parameters),
            "results": [asdict(result) for result in self.results.all],
            "targets": [asdict(target) for target in self._targets()],
            "failures": self._failures(),
        }

    def markdown(self) -> str:
        """The whole report."""
        experiment = self.experiment
        seeds = ", ".join(map(str, experiment.seeds))
        blocks = [
            f"Top-1 accuracy in percent after so many steps, mean ± half of the range over seeds "
            f"{seeds}. The dense twin is trained for {experiment.steps} steps before; what starts "
            "from it, or learns from it, has them in addition. `halved` without another word is by "
            "block-wise reconstruction.",
            self._accuracies(),
            "Right after halving, or selecting, without any training:",
            self._untrained(),
            self._judged(),
        ]
        if failures := self._failures():
            blocks.append("\n".join(f"- {name}: {text}" for name, text in failures.items()))
        blocks.append(_measured_on(_machine(experiment)))
        return "\n\n".join(blocks) + "\n"

    def _accuracies(self) -> str:
        experiment = self.experiment
        arms = ["dense", *self.arms]
        columns = sorted({steps for arm in arms for steps in experiment.steps_of(arm)})
        rows = []
        for arm in arms:
            planned = experiment.steps_of(arm)
            cells = [self._cell(arm, s) if s in planned else _NOTHING for s in columns]
            rows.append((arm, self._parameters(arm), *cells))
        return table(("arm", "parameters", *map(str, columns)), rows)

    def _untrained(self) -> str:
        arms = {f"halved, {method}": arm_of(method) for method in METHODS}
        arms["narrow, selected"] = "narrow-selected"
        rows = [(title, self._cell(arm, 0)) for title, arm in arms.items()]
        return table(("start", "accuracy"), rows)

    def _judged(self) -> str:
        verdict = {True: "met", False: "**missed**", None: _NOT_RUN}
        rows = [(t.title, t.found or _NOTHING, verdict[t.met]) for t in self._targets()]
        return table(("target", "found", "verdict"), rows)

    def _failures(self) -> dict[str, str]:
        """Without the ends of the logs, which name this machine's paths."""
        return {
            name: self.experiment.shown(text.partition("\n")[0])
            for name, text in self.failures.items()
        }

    def _targets(self) -> list[Target]:
        return targets(self.experiment, self.results)

    def _parameters(self, arm: str) -> str:
        role = {"dense": "dense", "dense-continued": "dense", "narrow-selected": "narrow"}
        count = self.parameters.get(role.get(arm, "half"))
        return _NOTHING if count is None else f"{count:,}"

    def _cell(self, arm: str, steps: int) -> str:
        spread = self.results.spread(arm, steps)
        if spread is None:
            return _NOT_RUN
        run, wanted = len(spread.values), len(self.experiment.seeds)
        return _amount(spread) + (f" ({run} of {wanted} seeds)" if run < wanted else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(c.ljust(width) for c, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _amount(spread: Spread) -> str:
    text = f"{spread.mean:.2f}"
    return f"{text} ± {spread.half_range:.2f}" if len(spread.values) > 1 else text


def _machine(experiment: Experiment) -> dict[str, Any]:
    """Machine, versions and command, without paths of this machine."""
    about = machine.describe()
    words = [experiment.shown(word) for word in shlex.split(about["command"])]
    about["command"] = shlex.join(Path(w).name if os.path.isabs(w) else w for w in words)
    about["environment"] = {k: v for k, v in about["environment"].items() if os.sep not in v}
    return about


def _measured_on(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    cores = f"{about['cores']} core{'s' if about['cores'] > 1 else ''}"
    return (
        f"{about['date'][:10]}, {about['gpu'] or about['cpu']}, {cores}, Python "
        f"{about['python']}, {versions}: `{about['command']}`"
    )


def _write(path: Path, text: str) -> None:
    with temporary_beside(path) as temporary:
        temporary.write_text(text)
        os.replace(temporary, path)
