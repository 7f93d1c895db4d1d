"""Records: what made a log, in one form for all.

A record is ``run.json`` in a training's folder or in a folder of JSON logs, or ``NAME.run.json``
beside a single one. It has ``command``, ``seed``, ``date``, ``hardware``, ``versions`` and, of a
training, ``metrics``, the last validation's. ``from_docs`` lists what no log tells, but the
documentation said when the log was made. JSON logs that tell all that themselves need none.
"""

import json
import os
import shlex
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ..errors import UserError
from ..files import whole_file
from .experiments import DATA, EXPERIMENTS, Experiment
from .logs import RECORD, Logs

FACTS = ("command", "seed", "date", "hardware", "versions")


def shown_command(experiment: Experiment) -> str:
    """What is run, for people: placeholders in capitals, a line for each command."""
    lines = []
    for command in experiment.commands:
        variables = [f"{key}={value}" for key, value in experiment.environment.items()]
        words = [shlex.quote(word) if " " in word else _plain(word) for word in command]
        lines.append(" ".join([*variables, "python", *words]))
    return "\n".join(lines)


def _plain(word: str) -> str:
    for name, data in DATA.items():
        word = word.replace(f"{{data:{name}}}", data.default)
    return word.replace("{work}", "WORK").replace("{out}", "OUT").replace("{runs}", "RUNS")


def metrics_of(logs: Logs, name: str) -> dict[str, float]:
    """What the last validation of a training found."""
    skipped = ("time", "data_time")
    found = {k: float(s.values[-1]) for k, s in logs.run(name).val.items() if k not in skipped}
    return dict(sorted(found.items()))


def date_of(logs: Logs, name: str) -> str:
    """When the last start of a training was, from the name of mmengine's folder."""
    starts = sorted(file.parents[1].name for file in (logs.folder / name).rglob("scalars.json"))
    return datetime.strptime(starts[-1], "%Y%m%d_%H%M%S").isoformat()


def make_record(logs: Logs, name: str, about: dict[str, Any]) -> dict[str, Any]:
    """A training's record.

    Args:
        logs: The stored logs.
        name: The training.
        about: What the log does not tell: ``command``, ``seed``, ``hardware``, ``versions``, and
            ``from_docs`` if that comes from the documentation.
    """
    return {**about, "date": date_of(logs, name), "metrics": metrics_of(logs, name)}


def machine_facts(described: dict[str, Any]) -> dict[str, Any]:
    """``hardware`` and ``versions`` from :func:`halvit_mm.benchmark.machine.describe`."""
    hardware = {key: described.get(key) for key in ("cpu", "cores", "gpu", "system")}
    variables = {k: v for k, v in described.get("environment", {}).items() if os.sep not in v}
    return {
        "hardware": hardware | {"environment": variables},
        "versions": {"python": described["python"], **described["versions"]},
    }


def read_record(logs: Logs, name: str) -> dict[str, Any] | None:
    """What made a log: from its record, or from what a JSON log itself holds; None if neither."""
    if (file := logs.record_file(name)) is not None:
        return json.loads(file.read_text(encoding="utf-8"))
    if (logs.folder / name).is_dir():
        return None
    content = logs.json(name)
    if not isinstance(content, dict):
        return None
    itself = content if {"command", "versions"} <= set(content) else None
    machines = content.get("runs") or [content.get("machine") or itself]
    if not isinstance(machines, list) or not machines[0]:
        return None
    last = machines[-1]
    seed = content.get("seed", (content.get("experiment") or {}).get("seeds"))
    return {
        "command": last["command"], "seed": seed, "date": last["date"], **machine_facts(last)
    }  # fmt: skip


def refresh_records(logs: Logs) -> list[str]:
    """Writes date and metrics of all trainings' records anew from the logs.

    Returns:
        The trainings whose record changed.

    Raises:
        UserError: A training has no record.
    """
    changed = []
    for name in logs.trainings:
        file = logs.folder / name / RECORD
        if not file.is_file():
            raise UserError(f"{file}: this record of the training is missing; restore it")
        record = json.loads(file.read_text(encoding="utf-8"))
        renewed = make_record(logs, name, record)
        if renewed != record:
            changed.append(name)
            write_record(logs, name, renewed)
    return changed


def faults(logs: Logs) -> list[str]:
    """What is wrong with the records, a sentence each."""
    found = []
    for name in logs.names:
        record = read_record(logs, name)
        if record is None:
            found.append(f"{name}: no record tells what made it")
            continue
        missing = [fact for fact in FACTS if fact not in record]
        if missing:
            found.append(f"{name}: its record lacks {', '.join(missing)}")
        if name in logs.trainings:
            if record.get("metrics") != metrics_of(logs, name):
                found.append(f"{name}: the metrics of its record are not the log's last ones")
            elif record.get("date") != date_of(logs, name):
                found.append(f"{name}: the date of its record is not the log's")
    return found


def write_record(logs: Logs, name: str, record: dict[str, Any]) -> None:
    """Writes a log's own record."""
    path = logs.folder / name
    file = path / RECORD if path.is_dir() else path.with_name(f"{path.name}.{RECORD}")
    ordered = {key: record[key] for key in (*FACTS, "metrics", "from_docs") if key in record}
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def experiments_of(patterns: Sequence[str]) -> list[Experiment]:
    """The experiments of logs, those that they need first.

    Args:
        patterns: Logs, or patterns with ``*``.
    """
    import fnmatch

    found: dict[str, Experiment] = {}

    def add(experiment: Experiment) -> None:
        for name in experiment.needs:
            add(EXPERIMENTS[name])
        found.setdefault(experiment.log, experiment)

    for pattern in patterns:
        for name, experiment in EXPERIMENTS.items():
            if fnmatch.fnmatchcase(name, pattern):
                add(experiment)
    return list(found.values())
