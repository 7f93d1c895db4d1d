"""What came of the experiment, as far as it has been run."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

from ...errors import UserError
from .experiment import ARMS, Experiment, testing_start, training
from .jobs import Job
from .logs import logged_accuracy, tested_accuracy


@dataclass(frozen=True, kw_only=True)
class Result:
    """One accuracy.

    Attributes:
        arm: One of :data:`~.experiment.ARMS`, or ``"dense"``.
        seed: Its seed.
        steps: How long it was trained; 0 for the start of an arm, before any training.
        accuracy: Top-1 accuracy on the config's validation images, in percent.
        config: The config.
        command: What was run.
    """

    arm: str
    seed: int
    steps: int
    accuracy: float
    config: str
    command: str


@dataclass(frozen=True)
class Spread:
    """Accuracies of several seeds, in percent."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return mean(self.values)

    @property
    def half_range(self) -> float:
        """Half of the distance from the lowest to the highest."""
        return (max(self.values) - min(self.values)) / 2


class Results:
    """Accuracies by arm, steps and seed."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.all = tuple(results)
        self._by_seed: dict[tuple[str, int], dict[int, float]] = {}
        for result in self.all:
            self._by_seed.setdefault((result.arm, result.steps), {})[result.seed] = result.accuracy

    def by_seed(self, arm: str, steps: int) -> dict[int, float]:
        """Accuracy of each seed that was run."""
        return self._by_seed.get((arm, steps), {})

    def spread(self, arm: str, steps: int) -> Spread | None:
        """What the seeds gave; None if none was run."""
        values = tuple(self.by_seed(arm, steps).values())
        return Spread(values) if values else None

    def pair(self, one: tuple[str, int], other: tuple[str, int]) -> tuple[Spread, Spread] | None:
        """Two arms with their steps, by the seeds that both were run with, if there are any."""
        first, second = self.by_seed(*one), self.by_seed(*other)
        seeds = [seed for seed in first if seed in second]
        if not seeds:
            return None
        return Spread(tuple(first[s] for s in seeds)), Spread(tuple(second[s] for s in seeds))


def collect(experiment: Experiment) -> Results:
    """Reads what is finished of all arms, also of those that are not asked for this time.

    Raises:
        UserError: A finished part is damaged or was made with another config.
    """
    results = []
    for seed in experiment.seeds:
        for arm in ("dense", *ARMS):
            if experiment.config(arm) is None:
                continue
            for steps in experiment.steps_of(arm):
                job = training(experiment, arm, seed, steps)
                if job.finished:
                    _check_config(experiment, arm, job)
                    results.append(
                        _result(experiment, job, arm, seed, steps, logged_accuracy(job.training))
                    )
            if arm.startswith(("halved", "narrow")) and not arm.endswith("-distilled"):
                job = testing_start(experiment, arm, seed)
                if job.finished:
                    results.append(
                        _result(experiment, job, arm, seed, 0, tested_accuracy(job.product))
                    )
    return Results(results)


def _result(
    experiment: Experiment, job: Job, arm: str, seed: int, steps: int, accuracy: float
) -> Result:
    arguments = map(experiment.shown, job.arguments)
    return Result(
        arm=arm,
        seed=seed,
        steps=steps,
        accuracy=accuracy,
        config=experiment.shown(str(experiment.config(arm))),
        command=shlex.join(["python", f"tools/{job.tool}", *arguments]),
    )


def _check_config(experiment: Experiment, arm: str, job: Job) -> None:
    """mmengine keeps the config in the work directory, under its own name."""
    config = experiment.config(arm)
    if not (job.training / config.name).exists():
        raise UserError(
            f"{job.training}: this was not trained with {config}, of which there is no copy in it; "
            "choose another --work-dir or remove the folder"
        )
