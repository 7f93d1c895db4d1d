"""What halving is to reach, judged by what was measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from .experiment import CONTINUED, Experiment
from .results import Results

#: Halved and distilled models are to reach the from-scratch model with this share of its steps.
SHARE_OF_STEPS = 0.25
#: And are to end at most so many points below the dense twin.
POINTS_BELOW = 0.5


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target.

    Attributes:
        title: What is to be reached.
        found: What was measured; empty if it was not run.
        met: None if it was not run.
    """

    title: str
    found: str = ""
    met: bool | None = None


def targets(experiment: Experiment, results: Results) -> list[Target]:
    """Judges each target by means over the seeds that both of its sides were run with."""
    return [
        *_methods(experiment, results),
        _fewer_steps(experiment, results),
        *_near_dense(experiment, results),
        *_starts(experiment, results),
    ]


def _methods(experiment: Experiment, results: Results) -> Iterator[Target]:
    """Reconstruction gives more than the plain average."""
    title = "reconstruction above average"
    yield _above(results, f"{title}, right after halving", ("halved", 0), ("halved-average", 0))
    for steps in experiment.steps_of("halved"):
        one, other = ("halved", steps), ("halved-average", steps)
        yield _above(results, f"{title}, {steps} steps", one, other)
    for steps in experiment.steps_of("halved-distilled"):
        one, other = ("halved-distilled", steps), ("halved-average-distilled", steps)
        if results.pair(one, other):  # not among the usual arms
            yield _above(results, f"{title}, both distilled, {steps} steps", one, other)


def _fewer_steps(experiment: Experiment, results: Results) -> Target:
    """Halved and distilled reaches the accuracy of the from-scratch model in fewer steps."""
    title = f"halved-distilled reaches scratch in at most {SHARE_OF_STEPS:.0%} of its steps"
    limit = SHARE_OF_STEPS * experiment.steps
    allowed = [steps for steps in experiment.steps_of("halved-distilled") if steps <= limit]
    last = Target(title=title)
    for steps in allowed:
        one, other = ("halved-distilled", steps), ("scratch", experiment.steps)
        last = _above(results, title, one, other, or_equal=True)
        if last.met:
            return last
    return last  # the longest one allowed decides, also if it was not run


def _near_dense(experiment: Experiment, results: Results) -> Iterator[Target]:
    """Halved and distilled ends near the dense twin."""
    longest = experiment.steps_of("halved-distilled")[-1]
    (continued,) = experiment.steps_of("dense-continued")
    within = f"within {POINTS_BELOW} of"
    margin = dict(margin=POINTS_BELOW, or_equal=True)
    yield _above(
        results,
        f"halved-distilled ends {within} the dense twin",
        ("halved-distilled", longest),
        ("dense", experiment.steps),
        **margin,
    )
    yield _above(
        results,
        f"halved-distilled ends {within} dense-continued",
        ("halved-distilled", longest),
        ("dense-continued", continued),
        **margin,
    )
    yield _above(
        results,
        f"halved-distilled {within} dense-continued, both {CONTINUED:.0%} further",
        ("halved-distilled", continued),
        ("dense-continued", continued),
        **margin,
    )


def _starts(experiment: Experiment, results: Results) -> Iterator[Target]:
    """The halved start is better than a random one."""
    for steps in experiment.steps_of("halved"):
        yield _above(
            results, f"halved above scratch, {steps} steps", ("halved", steps), ("scratch", steps)
        )


def _above(
    results: Results,
    title: str,
    one: tuple[str, int],
    other: tuple[str, int],
    *,
    margin: float = 0.0,
    or_equal: bool = False,
) -> Target:
    """The first arm is above the second, or at most ``margin`` points below it."""
    pair = results.pair(one, other)
    if pair is None:
        return Target(title=title)
    first, second = pair
    # Accuracies have two digits after the point; what is left of rounding is no difference.
    difference = round(first.mean - second.mean, 6)
    seeds = len(first.values)
    found = (
        f"{_at(*one)} {first.mean:.2f}, {_at(*other)} {second.mean:.2f}: "
        f"{difference:+.2f} ({seeds} seed{'s' if seeds > 1 else ''})"
    )
    met = difference >= -margin if or_equal else difference > -margin
    return Target(title=title, found=found, met=met)


def _at(arm: str, steps: int) -> str:
    return f"{arm} at {steps}"
