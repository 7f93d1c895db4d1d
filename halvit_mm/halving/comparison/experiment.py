"""The experiment: which commands it consists of, and where they leave what they make.

For each seed a dense twin is trained. Then several *arms* are trained for several *budgets*, each a
training of its own whose learning rate ends at zero:

- ``scratch``: the half-weight model from random weights,
- ``scratch-distilled``: the same, taught by the dense twin,
- ``halved``: the half-weight model made of the dense twin by block-wise reconstruction,
  ``halved-average`` and ``halved-aligned`` by the other methods,
- ``halved-distilled`` and so on: the same, taught by the dense twin,
- ``narrow-selected``: a narrow dense model that starts from a subset of the dense twin's weights,
- ``dense-continued``: the dense twin itself, trained on.

A training is ``seed<S>/<arm>_<steps>/`` in the comparison's folder.
"""

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ...engine.config_errors import load_config
from ...errors import UserError
from .jobs import Job, name_of

ROOT = Path(__file__).resolve().parents[3]

METHODS = ("average", "aligned", "reconstruction")
#: The method of the arms that do not name one.
BEST = "reconstruction"
#: What the dense twin is trained on by, as a fraction of its steps.
CONTINUED = 0.25
#: The arms that are run unless others are asked for, and that the table always shows.
USUAL_ARMS = (
    "scratch", "scratch-distilled", "narrow-selected", "halved-average", "halved",
    "halved-distilled", "dense-continued",
)  # fmt: skip
ARMS = (*USUAL_ARMS, "halved-average-distilled", "halved-aligned", "halved-aligned-distilled")

#: What mmengine's KEY=VALUE options take for the parts of a list.
_LIST_SIGNS = set(",()[]'\"")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is compared.

    Attributes:
        dense, half, distilled, narrow: Configs of the dense twin, of the half-weight model, of the
            same with a teacher, and of the narrow dense model; without one of the latter two its
            arms are left out.
        work_dir: The comparison's folder, absolute.
        steps: Steps of the dense twin's training.
        budgets: Fractions of ``steps`` that arms are trained for, ascending.
        seeds: One comparison each.
        arms: What is run of :data:`ARMS`.
        methods: Methods of halving whose accuracy is measured without any training.
    """

    dense: Path
    half: Path
    distilled: Path | None = None
    narrow: Path | None = None
    work_dir: Path
    steps: int
    budgets: tuple[float, ...] = (0.0625, 0.25, 1.0)
    seeds: tuple[int, ...] = (0, 1)
    arms: tuple[str, ...] = USUAL_ARMS
    methods: tuple[str, ...] = METHODS

    @property
    def configs(self) -> dict[str, Path]:
        """The configs that were given, by what they are for."""
        names = ("dense", "half", "distilled", "narrow")
        return {name: path for name in names if (path := getattr(self, name))}

    def config(self, arm: str) -> Path | None:
        """The config that an arm, or ``"dense"``, is trained with; None if it was not given."""
        if arm in ("dense", "dense-continued"):
            return self.dense
        if arm == "narrow-selected":
            return self.narrow
        return self.distilled if arm.endswith("-distilled") else self.half

    def steps_of(self, arm: str) -> tuple[int, ...]:
        """The numbers of steps that an arm, or ``"dense"``, is trained for."""
        budgets = {"dense": (1.0,), "dense-continued": (CONTINUED,)}.get(arm, self.budgets)
        return tuple(max(1, round(budget * self.steps)) for budget in budgets)

    def folder(self, arm: str, seed: int, steps: int) -> Path:
        """The work directory of a training."""
        return self.work_dir / f"seed{seed}" / f"{arm}_{steps}"

    def trained_dense(self, seed: int) -> Path:
        """The dense twin's checkpoint."""
        return self.folder("dense", seed, self.steps) / f"iter_{self.steps}.pth"

    def start(self, arm: str, seed: int) -> Path | None:
        """The checkpoint that an arm starts from; None for random weights."""
        if arm == "dense-continued":
            return self.trained_dense(seed)
        if arm == "narrow-selected":
            return self.work_dir / f"seed{seed}" / "narrow-selected.pth"
        if method := method_of(arm):
            return self.work_dir / f"seed{seed}" / f"halved_{method}.pth"
        return None

    def untrained_arms(self) -> list[str]:
        """The arms whose start is made of the dense twin, and tested before any training."""
        methods = {*self.methods, *map(method_of, self.arms)}
        arms = [arm_of(method) for method in METHODS if method in methods]
        return (
            [*arms, "narrow-selected"] if self.narrow and "narrow-selected" in self.arms else arms
        )

    def shown(self, argument: str) -> str:
        """An argument of a command without what only this machine has."""
        for config in self.configs.values():
            if argument == str(config):
                full = config.resolve()
                return str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else full.name
        return argument.replace(str(self.work_dir), "DIR")


def method_of(arm: str) -> str | None:
    """How an arm's start is halved; None if it is not."""
    name = arm.removesuffix("-distilled")
    return {"halved": BEST, "halved-average": "average", "halved-aligned": "aligned"}.get(name)


def arm_of(method: str) -> str:
    """The arm that starts from what a method of halving gives, and has no teacher."""
    return "halved" if method == BEST else f"halved-{method}"


def training(experiment: Experiment, arm: str, seed: int, steps: int) -> Job:
    """One training."""
    folder = experiment.folder(arm, seed, steps)
    dense = experiment.trained_dense(seed)
    options = [
        f"train_cfg.max_iters={steps}",
        f"train_cfg.val_interval={steps}",
        f"param_scheduler.1.T_max={steps}",
        f"randomness.seed={seed}",
    ]
    needs = set()
    if start := experiment.start(arm, seed):
        options.append(f"load_from={start}")
        needs.add(name_of(dense.parent if start == dense else start))
    if arm.endswith("-distilled"):
        options.append(f"model.teacher.checkpoint={dense}")
        needs.add(name_of(dense.parent))
    config = str(experiment.config(arm))
    return Job(
        name=name_of(folder),
        tool="train.py",
        arguments=(config, "--work-dir", str(folder), "--cfg-options", *options),
        product=folder / "done",
        log=folder.with_name(f"{folder.name}.log"),
        training=folder,
        needs=tuple(sorted(needs)),
    )


def making_start(experiment: Experiment, arm: str, seed: int) -> Job:
    """What makes the start of an arm from the dense twin."""
    dense, target = experiment.trained_dense(seed), experiment.start(arm, seed)
    tool, options = "select_weights.py", ()
    if method := method_of(arm):
        tool, options = "halve.py", ("--method", method, "--seed", str(seed))
    config = str(experiment.config(arm))
    return Job(
        name=name_of(target),
        tool=tool,
        arguments=(str(dense), str(target), "--config", config, *options),
        product=target,
        log=target.with_suffix(".log"),
        needs=(name_of(dense.parent),),
    )


def testing_start(experiment: Experiment, arm: str, seed: int) -> Job:
    """What measures the start of an arm before any training."""
    start = experiment.start(arm, seed)
    folder = start.with_name(f"{start.stem}_0")
    product = folder / "accuracy.json"
    config = str(experiment.config(arm))
    return Job(
        name=name_of(folder),
        tool="test.py",
        arguments=(config, str(start), "--work-dir", str(folder), "--json", str(product)),
        product=product,
        log=folder.with_name(f"{folder.name}.log"),
        needs=(name_of(start),),
    )


def plan(experiment: Experiment) -> list[Job]:
    """All commands of the experiment, finished or not, in the order in which they are run."""
    arms = [arm for arm in experiment.arms if experiment.config(arm)]
    jobs = []
    for seed in experiment.seeds:
        jobs.append(training(experiment, "dense", seed, experiment.steps))
        for arm in experiment.untrained_arms():
            jobs += making_start(experiment, arm, seed), testing_start(experiment, arm, seed)
        trainings = [(steps, arm) for arm in arms for steps in experiment.steps_of(arm)]
        # The short ones first: they soon show how things are going.
        for steps, arm in sorted(trainings, key=lambda pair: pair[0]):
            jobs.append(training(experiment, arm, seed, steps))
    return jobs


def check(experiment: Experiment) -> list[str]:
    """Looks at the configs before hours are spent on them.

    Returns:
        What is worth knowing about the budgets, a line each.

    Raises:
        UserError: A config cannot be read, or its training cannot be shortened to a number of
            steps; or the folder's name cannot be an option's value.
    """
    if strange := _LIST_SIGNS & set(str(experiment.work_dir)):
        raise UserError(
            f"--work-dir {experiment.work_dir}: {' '.join(sorted(strange))} in a path would be "
            "read as the parts of a list; choose another folder"
        )
    configs = {name: load_config(path) for name, path in experiment.configs.items()}
    for name, cfg in configs.items():
        _check_schedule(experiment.configs[name], cfg)
    if "distilled" in configs and not configs["distilled"].model.get("teacher"):
        raise UserError(
            f"{experiment.distilled}: there is no model.teacher; give the config of a classifier "
            "that learns from a teacher"
        )
    notes = []
    warm_up = max(_warm_up(cfg) for cfg in configs.values())
    for steps in experiment.steps_of("scratch"):
        if steps < 2 * warm_up:
            notes.append(f"{steps} steps are less than twice the warm-up of {warm_up} steps")
    return notes


def _check_schedule(path: Path, cfg: Config) -> None:
    schedulers = cfg.get("param_scheduler")
    decay = schedulers[1] if isinstance(schedulers, list) and len(schedulers) > 1 else {}
    by_steps = decay.get("type") == "CosineAnnealingLR" and not decay.get("by_epoch", True)
    if not (by_steps and "T_max" in decay and "max_iters" in (cfg.get("train_cfg") or {})):
        raise UserError(
            f"{path}: the comparison sets train_cfg.max_iters and param_scheduler.1.T_max, so it "
            "needs a training by iterations whose second scheduler is a CosineAnnealingLR with "
            "T_max and by_epoch=False; see configs/_base_/schedules/adamw_steps.py"
        )


def _warm_up(cfg: Config) -> int:
    first = cfg.param_scheduler[0]
    return int(first.get("end", 0)) if first.get("type") == "LinearLR" else 0
