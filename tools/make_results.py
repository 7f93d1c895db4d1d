"""Makes the tables and plots of the documentation from the stored logs, or the logs themselves.

Tables stand in README.md and docs/ between <!-- table: NAME --> and <!-- end -->, logs in
docs/results/. A plot is drawn anew only where its logs have changed.

  tools/make_results.py                         # all tables and plots, from the logs
  tools/make_results.py --check                 # which of them do not agree with the logs: status 1
  tools/make_results.py --rerun cifar10         # runs the experiments of the table cifar10 again
  tools/make_results.py --rerun --dry-run       # prints all commands
"""

import argparse
import shlex
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="tables and plots, with --rerun logs as well (default: all)",
    )  # fmt: skip
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--check", action="store_true", help="change nothing; tell what is stale")
    task.add_argument(
        "--list", action="store_true", help="name tables and plots, their pages and their logs"
    )
    task.add_argument(
        "--rerun", action="store_true",
        help="run the experiments, put their logs in docs/results, then make tables and plots",
    )  # fmt: skip
    parser.add_argument("--redraw", action="store_true", help="draw plots whose logs are the same")
    parser.add_argument("--dry-run", action="store_true", help="with --rerun: print the commands")
    parser.add_argument(
        "--work-dir", type=Path, default=Path("work_dirs/results"), metavar="DIR",
        help="with --rerun: folder of the experiments, in which finished ones are adopted and "
        "interrupted ones go on (default: work_dirs/results)",
    )  # fmt: skip
    args = parser.parse_args()
    if args.dry_run and not args.rerun:
        parser.error("--dry-run goes with --rerun")

    from halvit_mm.evidence.site import Site

    site = Site(root=ROOT)
    if args.list:
        return _list(site)
    if args.check:
        faults = site.stale()
        print("\n".join(faults) or "all tables, plots and records agree with the logs")
        return 1 if faults else 0
    if args.rerun:
        return _rerun(site, args)
    from halvit_mm.evidence.site import what

    what(args.names)
    site.make(args.names, redraw=args.redraw)
    return 0


def _list(site) -> int:
    from halvit_mm.evidence.site import PLOTS, TABLES

    places = site.places()
    for table in TABLES.values():
        pages = ", ".join(places.get(table.name, ["on no page"]))
        print(f"{table.name}: {pages}; from {', '.join(table.logs)}")
    for plot in PLOTS.values():
        print(f"{plot.name}: {site.image(plot).name}; from {', '.join(plot.logs)}")
    return 0


def _rerun(site, args: argparse.Namespace) -> int:
    from halvit_mm.evidence.rerun import filled, rerun
    from halvit_mm.evidence.site import needed

    experiments = needed(args.names)
    if args.dry_run:
        for experiment in experiments:
            print(f"# {experiment.log}")
            variables = " ".join(f"{k}={v}" for k, v in experiment.environment.items())
            for command in filled(experiment, args.work_dir):
                print(f"{variables} {shlex.join(['python', *command[1:]])}".strip())
        return 0
    failures = rerun(
        experiments,
        site.logs,
        runs=args.work_dir,
        root=ROOT,
        tell=lambda text: print(text, flush=True),
    )
    site.make()
    return 2 if failures else 0


if __name__ == "__main__":
    run(main)
