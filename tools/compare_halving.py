"""Compares halved models with their controls: accuracy against steps of training, by seeds.

Trains the dense twin for STEPS, halves it, and trains what it gives and what it is compared with
for fractions of STEPS, all in the folder --work-dir, where it continues what was interrupted. What
fails is told, the rest goes on, and the status is 2. Writes comparison.json, .md and .png there.

  cd configs/halving
  python ../../tools/compare_halving.py dense_vit_cifar10.py half_vit_cifar10.py \\
      half_vit_cifar10_distilled.py --narrow narrow_vit_cifar10.py --work-dir DIR --steps 4000
"""

import argparse
import signal
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> int:
    from halvit_mm.halving.comparison.experiment import ARMS, METHODS, USUAL_ARMS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dense", type=Path, metavar="DENSE_CONFIG")
    parser.add_argument("half", type=Path, metavar="HALF_CONFIG")
    parser.add_argument(
        "distilled",
        type=Path,
        nargs="?",
        metavar="DISTILLED_CONFIG",
        help="the half-weight model with the dense twin as its teacher",
    )
    parser.add_argument(
        "--narrow",
        type=Path,
        metavar="NARROW_CONFIG",
        help="a dense model as small as the half-weight one, to start by weight selection",
    )
    parser.add_argument("--work-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, required=True, help="steps of the dense twin")
    parser.add_argument(
        "--budgets",
        type=float,
        nargs="+",
        default=[0.0625, 0.25, 1],
        metavar="SHARE",
        help="trainings of each arm, as fractions of STEPS (default: 0.0625 0.25 1)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="SEED")
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        metavar="ARM",
        help=f"what to train, of {', '.join(ARMS)} (default: those of the first "
        f"{len(USUAL_ARMS)} whose configs are given)",
    )
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=METHODS,
        default=METHODS,
        help="methods of halving to measure right after it (default: all)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time")
    parser.add_argument(
        "--report-only", action="store_true", help="run nothing; show what is finished"
    )
    args = parser.parse_args()
    for option in ("steps", "jobs"):
        if getattr(args, option) < 1:
            parser.error(f"--{option} {getattr(args, option)}: give 1 or more")
    for share in args.budgets:
        if not 0 < share <= 1:
            parser.error(f"--budgets {share:g}: give fractions of --steps, above 0 and up to 1")
    for seed in args.seeds:
        if seed < 0:
            parser.error(f"--seeds {seed}: give 0 or more")

    from halvit_mm.halving.comparison.experiment import Experiment, check, plan
    from halvit_mm.halving.comparison.jobs import run_jobs
    from halvit_mm.halving.comparison.report import Report
    from halvit_mm.halving.comparison.results import collect

    experiment = Experiment(
        dense=args.dense,
        half=args.half,
        distilled=args.distilled,
        narrow=args.narrow,
        work_dir=args.work_dir.expanduser().resolve(),
        steps=args.steps,
        budgets=tuple(sorted(set(args.budgets))),
        seeds=tuple(dict.fromkeys(args.seeds)),
        arms=tuple(args.arms or USUAL_ARMS),
        methods=tuple(args.methods),
    )
    for arm in args.arms or ():
        if experiment.config(arm) is None:
            missing = "--narrow" if arm == "narrow-selected" else "DISTILLED_CONFIG"
            parser.error(f"--arms {arm}: its config is missing; give {missing}")
    for note in check(experiment):
        print(f"note: {note}")
    failures = {}
    if not args.report_only:
        # A `kill` ends the trainings as well, as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        failures = run_jobs(
            plan(experiment),
            tools=Path(__file__).resolve().parent,
            at_once=args.jobs,
            tell=lambda text: print(text, flush=True),
        )
    print("\n" + Report.of(experiment, collect(experiment), failures).write(), end="")
    return 2 if failures else 0


if __name__ == "__main__":
    run(main)
