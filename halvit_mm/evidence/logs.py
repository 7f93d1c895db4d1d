"""The stored logs, read once each.

A log is called by its path below the folder of results: a training by its folder, whose
``<time of start>/vis_data/scalars.json`` mmengine wrote, and anything else by its JSON file without
the suffix. What made a log is told by its *record*: see :mod:`.records`.
"""

import fnmatch
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..visualization import Run, read_run

RECORD = "run.json"


class Logs:
    """Logs in a folder.

    Args:
        folder: The folder of results, ``docs/results``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._json: dict[str, Any] = {}
        self._runs: dict[str, Run] = {}

    @cached_property
    def names(self) -> list[str]:
        """All logs, records left out."""
        scalars = self.folder.rglob("*/vis_data/scalars.json")
        trainings = {file.parents[2] for file in scalars}
        files = {
            file.with_suffix("")
            for file in self.folder.rglob("*.json")
            if file.name != RECORD
            and not file.name.endswith(f".{RECORD}")
            and not trainings & set(file.parents)
        }
        return sorted(path.relative_to(self.folder).as_posix() for path in trainings | files)

    @cached_property
    def trainings(self) -> list[str]:
        """The logs of trainings."""
        return [name for name in self.names if (self.folder / name).is_dir()]

    def matching(self, pattern: str) -> list[str]:
        """The logs of a name, or of a pattern with ``*``.

        Raises:
            UserError: There is none.
        """
        found = [name for name in self.names if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise UserError(f"{self.folder}: no log is called {pattern}; see the names there")
        return found

    def json(self, name: str) -> Any:
        """What a JSON file holds.

        Raises:
            UserError: There is no such file, or it is no JSON.
        """
        if name not in self._json:
            path = self.folder / f"{name}.json"
            try:
                self._json[name] = json.loads(path.read_text(encoding="utf-8"))
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}; this log is needed") from error
            except ValueError as error:
                raise UserError(f"{path}: this is not JSON ({error}); restore the log") from error
        return self._json[name]

    def run(self, name: str) -> Run:
        """A training.

        Raises:
            UserError: See :func:`halvit_mm.visualization.read_run`.
        """
        if name not in self._runs:
            self._runs[name] = read_run(self.folder / name)
        return self._runs[name]

    def final(self, name: str, metric: str) -> float:
        """What the last validation of a training found, by the metric's name without prefix."""
        series = self.run(name).find(metric)
        if series is None:
            raise UserError(f"{self.folder / name}: its log has no {metric}")
        return float(series.values[-1])

    def count(self, config: str) -> dict[str, Any]:
        """What ``tools/count_params.py`` counted of a config."""
        for count in self.json("counts")["configs"]:
            if count["config"] == config:
                return count
        raise UserError(f"{self.folder}/counts.json: {config} is not counted in it; --rerun counts")

    def record_file(self, name: str) -> Path | None:
        """The file that tells what made a log: its own, or the nearest in the folders above."""
        path = self.folder / name
        own = path / RECORD if path.is_dir() else path.with_name(f"{path.name}.{RECORD}")
        above = [parent / RECORD for parent in path.parents if self.folder in parent.parents]
        return next((file for file in (own, *above) if file.is_file()), None)

    def digest(self, patterns: tuple[str, ...]) -> str:
        """A checksum of the logs that patterns name."""
        total = hashlib.sha256()
        for name in sorted({name for pattern in patterns for name in self.matching(pattern)}):
            path = self.folder / name
            files = sorted(path.rglob("scalars.json")) if path.is_dir() else [self._file(name)]
            for file in files:
                total.update(name.encode() + b"\0" + file.read_bytes())
        return total.hexdigest()[:16]

    def values(self, path: str) -> np.ndarray:
        """Numbers by ``NAME#key#key…``.

        Args:
            path: ``NAME`` is a log or a pattern of logs. Of a training a key is a metric, whose
                last value counts; ``metric#tail`` are the values of the last tenth of training,
                and ``seconds`` is its time. In JSON each key goes a level down, into lists by a
                position, by ``*`` or by ``key=value,…``, which takes what matches.

        Returns:
            (N), N ≥ 1.

        Raises:
            UserError: There is no such log or no such number in it.
        """
        pattern, *keys = path.split("#")
        found: list[Any] = []
        for name in self.matching(pattern):
            if (self.folder / name).is_dir():
                found += self._logged(name, keys)
            else:
                found += _go_down([self.json(name)], keys)
        numbers = [v for v in found if isinstance(v, int | float) and not isinstance(v, bool)]
        if not numbers or len(numbers) < len(found):
            raise UserError(f"{path}: there is no such number in {self.folder}")
        return np.array(numbers, dtype=float)

    def _logged(self, name: str, keys: list[str]) -> list[float]:
        run = self.run(name)
        if keys == ["seconds"]:
            return [run.training_seconds]
        series = run.find(keys[0])
        if series is None:
            return []
        if keys[1:] == ["tail"]:
            return list(series.values[series.iterations >= 0.9 * series.iterations[-1]])
        return [series.values[-1]]

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _go_down(content: list[Any], keys: list[str]) -> list[Any]:
    for key in keys:
        below: list[Any] = []
        for one in content:
            if isinstance(one, dict):
                below += one.values() if key == "*" else [one[key]] if key in one else []
            elif isinstance(one, list):
                below += _choose(one, key)
        content = below
    return [v for one in content for v in (one if isinstance(one, list) else [one])]


def _choose(items: list[Any], key: str) -> list[Any]:
    if key == "*":
        return items
    if key.lstrip("-").isdigit():
        return items[int(key) :][:1]
    wanted = [part.partition("=")[::2] for part in key.split(",")]
    return [one for one in items if all(str(one.get(k)) == v for k, v in wanted)]
