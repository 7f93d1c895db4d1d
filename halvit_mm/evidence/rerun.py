"""Runs experiments again and puts their logs in the place of the stored ones."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import UserError
from ..files import whole_file
from .experiments import DATA, Experiment
from .logs import Logs
from .records import machine_facts, make_record, shown_command, write_record

_LOG_LINES = 8  # that are told of a log where a command failed
_DONE = "done"


def work_folder(experiment: Experiment, runs: Path) -> Path:
    """The folder of an experiment."""
    return runs / experiment.log


def filled(experiment: Experiment, runs: Path) -> list[list[str]]:
    """The commands with their folders; a training that was interrupted resumes."""
    work = work_folder(experiment, runs)
    places = {"{work}": work, "{out}": _out(experiment, work), "{runs}": runs}
    places |= {f"{{data:{name}}}": data_folder(name) for name in DATA}
    found = []
    for command in experiment.commands:
        words = [_replace(word, places) for word in command]
        if words[0] == "tools/train.py" and (work / "last_checkpoint").exists():
            words.insert(2, "--resume")
        found.append([sys.executable, *words])
    return found


def data_folder(name: str) -> Path:
    """Where a data set of :data:`.experiments.DATA` is to be."""
    return Path(os.environ.get(DATA[name].variable, DATA[name].default)).absolute()


def check_data(experiments: Sequence[Experiment], runs: Path) -> None:
    """Looks for the data of all experiments that are not finished.

    Raises:
        UserError: Something is missing.
    """
    missing = {}
    for experiment in experiments:
        if (work_folder(experiment, runs) / _DONE).exists():
            continue
        for name in experiment.data:
            folder = data_folder(name)
            if not any((folder / file).exists() for file in DATA[name].files):
                missing.setdefault(name, []).append(experiment.log)
    if missing:
        lines = [
            f"\n  {name} is not in {data_folder(name)} (for {logs[0]}"
            f"{f' and {len(logs) - 1} more' if logs[1:] else ''}): {DATA[name].cure}, or set "
            f"{DATA[name].variable} to its folder"
            for name, logs in missing.items()
        ]
        raise UserError("data that the experiments need is missing:" + "".join(lines))


def rerun(
    experiments: Sequence[Experiment],
    logs: Logs,
    *,
    runs: Path,
    root: Path,
    tell: Callable[[str], None] = print,
) -> dict[str, str]:
    """Runs experiments, one after the other, and keeps each one's log as soon as it is there.

    What is finished in ``runs`` is not run again, and what was interrupted goes on if its command
    can. Where one fails, those that do not need it are run.

    Args:
        experiments: In the order in which they are run.
        logs: Whose folder gets the new logs, in the place of those of the same names.
        runs: A folder for all that the commands make.
        root: The repository's root, in which commands are called.
        tell: Gets a line for what goes on.

    Returns:
        Why experiments failed, by their logs.

    Raises:
        UserError: Data is missing.
    """
    runs = runs.absolute()
    check_data(experiments, runs)
    failures: dict[str, str] = {}
    for number, experiment in enumerate(experiments, 1):
        head = f"[{number}/{len(experiments)}] {experiment.log}"
        done = work_folder(experiment, runs) / _DONE
        if broken := next((name for name in experiment.needs if name in failures), None):
            failures[experiment.log] = f"needs {broken}, which failed"
        elif done.exists():
            tell(f"{head}: finished already")
        else:
            tell(head)
            if fault := _run(experiment, runs, root):
                failures[experiment.log] = fault
            else:
                keep(experiment, logs, runs)
                done.touch()
        if fault := failures.get(experiment.log):
            tell(f"{head}: {fault}")
    return failures


def keep(experiment: Experiment, logs: Logs, runs: Path) -> None:
    """Puts the log of a finished experiment in the place of the stored one, with its record."""
    work, target = work_folder(experiment, runs), logs.folder / experiment.log
    about = {"command": shown_command(experiment), "seed": experiment.seed, **_machine(experiment)}
    if experiment.training:
        shutil.rmtree(target, ignore_errors=True)
        for scalars in sorted(work.glob("*/vis_data/scalars.json")):
            copy = target / scalars.relative_to(work)
            copy.parent.mkdir(parents=True)
            shutil.copy(scalars, copy)
        write_record(logs, experiment.log, make_record(logs, experiment.log, about))
        return
    name = f"{target.name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    for source, kept in (experiment.products or {name: name}).items():
        with whole_file(target.parent / kept) as temporary:
            temporary.write_text(_without_paths(work / source, runs), encoding="utf-8")
    content = json.loads(target.with_name(name).read_text(encoding="utf-8"))
    if not (isinstance(content, dict) and {"runs", "machine"} & set(content)):
        write_record(logs, experiment.log, {**about, "date": _described()["date"]})


def _run(experiment: Experiment, runs: Path, root: Path) -> str | None:
    """Why it failed."""
    work = work_folder(experiment, runs)
    work.mkdir(parents=True, exist_ok=True)
    output = work / "output.txt"
    for command in filled(experiment, runs):
        with output.open("ab") as file:
            status = subprocess.run(
                command,
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **experiment.environment},
                check=False,
            ).returncode
        if status:
            lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
            end = "".join(f"\n  {line}" for line in lines[-_LOG_LINES:])
            return f"{Path(command[1]).name} failed with status {status}{end}"
    return None


def _without_paths(file: Path, runs: Path) -> str:
    """A file's text without this machine's folders, which say nothing to others."""
    text = file.read_text(encoding="utf-8")
    for folder, shown in ((runs, "RUNS"), *((data_folder(n), d.default) for n, d in DATA.items())):
        text = text.replace(str(folder), shown)
    if file.suffix != ".json":
        return text
    content = json.loads(text)
    machines = content.get("runs") or [content.get("machine")] if isinstance(content, dict) else []
    for one in machines:
        if isinstance(one, dict) and "environment" in one:
            variables = one["environment"].items()
            one["environment"] = {key: value for key, value in variables if os.sep not in value}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _machine(experiment: Experiment) -> dict:
    facts = machine_facts(_described())
    facts["hardware"]["environment"] |= experiment.environment
    return facts


def _described() -> dict:
    from ..benchmark.machine import describe

    return describe()


def _out(experiment: Experiment, work: Path) -> Path:
    return work / f"{Path(experiment.log).name}.json"


def _replace(word: str, places: dict[str, Path]) -> str:
    return re.sub(r"\{[\w:]+\}", lambda m: str(places.get(m[0], m[0])), word)
