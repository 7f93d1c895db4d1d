"""The logs of trainings as data.

mmengine writes ``WORK_DIR/<time of start>/vis_data/scalars.json``, a JSON object a line. Lines of
training carry ``iter`` and, in trainings by epochs, ``epoch``; the others are validations, whose
``step`` counts epochs or iterations, depending on the configuration. How many images an iteration
took is in what lies beside it: the batch size in ``vis_data/config.py``, the number of processes,
and where a training was resumed, in ``<time of start>.log``.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class Series:
    """One logged quantity.

    Attributes:
        iterations: (N), ascending; how many iterations of training had been done.
        values: (N), what was logged then.
    """

    iterations: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, put together from its parts if it was resumed.

    Attributes:
        name: What to call it.
        train: What was logged in training, by the log's keys: ``loss``, ``lr``, ``time`` (seconds
            per iteration), ``memory`` (MiB), …; and ``images_per_second`` of all processes.
        val: What validation found, by the log's keys: ``coco/bbox_mAP``, ``accuracy/top1``, ….
        iterations_per_epoch: None if the training does not count epochs.
    """

    name: str
    train: dict[str, Series]
    val: dict[str, Series]
    iterations_per_epoch: float | None

    def find(self, *keys: str) -> Series | None:
        """What was logged under the first of ``keys`` that there is.

        It is looked for in training, and then in validation behind any ``prefix/``.
        """
        behind_prefix = {name.split("/")[-1]: series for name, series in self.val.items()}
        known = {**behind_prefix, **self.train}
        return next((known[key] for key in keys if key in known), None)

    @property
    def iterations(self) -> int:
        """How far training is known to have come."""
        everything = (*self.train.values(), *self.val.values())
        return max((int(series.iterations[-1]) for series in everything), default=0)

    @property
    def epochs(self) -> float | None:
        """Epochs done; None if the training does not count them."""
        return self.iterations / self.iterations_per_epoch if self.iterations_per_epoch else None

    @property
    def final_loss(self) -> float | None:
        """Mean over the last tenth of training."""
        if (loss := self.train.get("loss")) is None:
            return None
        return float(loss.values[loss.iterations >= 0.9 * loss.iterations[-1]].mean())

    @property
    def seconds_per_iteration(self) -> float | None:
        """The median, which forgives pauses and a slow start."""
        return float(np.median(self.train["time"].values)) if "time" in self.train else None

    @property
    def images_per_second(self) -> float | None:
        """The median; None where the number of images in an iteration is not known."""
        series = self.train.get("images_per_second")
        return None if series is None else float(np.median(series.values))

    @property
    def training_seconds(self) -> float | None:
        """Time spent in iterations of training: no validation, no start-up, nothing repeated."""
        return None if "time" not in self.train else float(self.seconds_at(self.iterations))

    def seconds_at(self, iterations: np.ndarray | int) -> np.ndarray:
        """Time that had been spent in training when so many iterations were done.

        The last ones, if no line of the log tells, are taken to be as fast as those before.
        """
        time = self.train["time"]
        ends = np.append(time.iterations, max(self.iterations, time.iterations[-1] + 1))
        values = np.append(time.values, time.values[-1])
        seconds = np.cumsum(np.diff(ends, prepend=0) * values)
        return np.interp(iterations, [0, *ends], [0, *seconds])

    @property
    def peak_memory(self) -> float | None:
        """MiB of GPU memory; None on a CPU."""
        return float(self.train["memory"].values.max()) if "memory" in self.train else None


def read_run(work_dir: str | Path) -> Run:
    """Reads what mmengine logged in a work directory.

    Where a training was resumed or started anew, the later start replaces what the earlier one
    logged from there on. The last line of a file may be cut off, as a killed process leaves it.

    Args:
        work_dir: The training's ``--work-dir``, whose name becomes the run's.

    Raises:
        UserError: There is no such folder, no log in it, or a line of a log is damaged.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise UserError(f"{work_dir}: there is no such folder; give a training's --work-dir")
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    if not files:
        raise UserError(
            f"{work_dir}: there is no */vis_data/scalars.json in it; give the --work-dir of a "
            "training whose config has a LocalVisBackend in visualizer.vis_backends"
        )
    records: list[_Record] = []
    for file in files:
        start = _Start.read(file.parent)
        if part := _read_records(file, start.images):
            kept = [r for r in records if r.precedes(part[0], start.resumed_at)]
            records = kept + part
    if not records:
        raise UserError(f"{work_dir}: no training is logged in it yet; try again later")

    per_epoch = _iterations_per_epoch(records)
    return Run(
        name=work_dir.resolve().name,
        train=_series((r.iteration, r.values) for r in records if r.training),
        val=_series((r.done(per_epoch), r.values) for r in records if not r.training),
        iterations_per_epoch=per_epoch,
    )


def read_runs(work_dirs: Sequence[str | Path]) -> list[Run]:
    """Reads several trainings; folders of the same name are called by their whole paths.

    Raises:
        UserError: See :func:`read_run`.
    """
    runs = [read_run(work_dir) for work_dir in work_dirs]
    count = Counter(run.name for run in runs)
    return [
        run if count[run.name] == 1 else replace(run, name=str(work_dir))
        for run, work_dir in zip(runs, work_dirs, strict=True)
    ]


def group_seeds(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Puts runs under one name that differ only in a seed at its end: ``a_seed0``, ``a_s1``."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_SEED.sub(r"\1", run.name), []).append(run)
    return list(groups.items())


_SEED = re.compile(r"^(.+?)[/_-](?:seed|s)[_-]?\d+$")


@dataclass(frozen=True, kw_only=True)
class _Record:
    """One line of a log.

    ``iteration`` and ``epoch`` (from 1) are those of the line of training that this is, or that
    precedes this one. ``step`` is the line's own.
    """

    training: bool
    iteration: int
    epoch: int | None
    step: int
    values: dict[str, float]

    def precedes(self, start: "_Record", resumed_at: int | None) -> bool:
        """Whether a training that starts with ``start`` leaves this record as it is."""
        if resumed_at is not None:
            return self.iteration <= resumed_at
        if self.epoch is not None and start.epoch is not None:
            return self.epoch < start.epoch
        return self.iteration < start.iteration

    def done(self, per_epoch: float | None) -> int:
        """Iterations done at a validation."""
        if per_epoch and self.step == self.epoch:
            return round(self.step * per_epoch)
        # `step` counts iterations, or else epochs whose length no line tells. In the latter case
        # the line of training before this one is the nearest that is known.
        return max(self.step, self.iteration)


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What lies beside the log of one start of a training.

    Attributes:
        resumed_at: Iterations that had been done; None if it was not resumed or no line tells.
        images: Images of an iteration: batch size of a process times number of processes; None if
            the files do not tell both.
    """

    resumed_at: int | None
    images: int | None

    @classmethod
    def read(cls, vis_data: Path) -> "_Start":
        log = vis_data.parent / f"{vis_data.parent.name}.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        resumed = re.search(r"resumed epoch: \d+, iter: (\d+)", text)
        processes = re.search(r"GPU number: (\d+)", text)
        try:
            config = Config.fromfile(vis_data / "config.py", import_custom_modules=False)
            images = config.train_dataloader.batch_size * int(processes[1])
        except Exception:  # a file is missing or damaged, and a config may raise anything
            images = None
        return cls(resumed_at=int(resumed[1]) if resumed else None, images=images)


def _read_records(file: Path, images: int | None) -> list[_Record]:
    records = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    iteration, epoch = 0, None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            if not isinstance(content, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number == len(lines):
                break  # killed while writing
            raise UserError(
                f"{file}: line {number} is damaged ({error}); delete that line"
            ) from error
        training = "iter" in content
        if training:
            iteration, epoch = content.pop("iter"), content.pop("epoch", None)
        step = content.pop("step", 0)
        if iteration == step == 0:
            continue  # a validation by itself, without any training
        values = {_plain(key): float(value) for key, value in content.items() if _is_number(value)}
        if training and images and values.get("time"):
            values["images_per_second"] = images / values["time"]
        records.append(
            _Record(training=training, iteration=iteration, epoch=epoch, step=step, values=values)
        )
    return records


def _plain(key: str) -> str:
    """The key without what ``LogProcessor(log_with_hierarchy=True)`` puts before it."""
    return key.removeprefix("train/").removeprefix("val/")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _iterations_per_epoch(records: Iterable[_Record]) -> float | None:
    """From the first lines of the epochs: all are logged equally far behind their epoch's start.

    With one epoch only, its last line is taken for its end.
    """
    lines = [r for r in records if r.training and r.epoch is not None]
    if not lines:
        return None
    firsts: dict[int, int] = {}
    for line in lines:
        firsts.setdefault(line.epoch, line.iteration)
    begin, end = min(firsts), max(firsts)
    if begin == end:
        return lines[-1].iteration / end
    return (firsts[end] - firsts[begin]) / (end - begin)


def _series(points: Iterable[tuple[int, dict[str, float]]]) -> dict[str, Series]:
    columns: dict[str, dict[int, float]] = {}
    for iteration, values in points:
        for key, value in values.items():
            columns.setdefault(key, {})[iteration] = value
    return {
        key: Series(iterations=np.array(list(column)), values=np.array(list(column.values())))
        for key, column in columns.items()
    }
