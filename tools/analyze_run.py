"""Plots loss, accuracy, learning rate, memory and speed of trainings and prints a table of them."""

from argparse import ArgumentParser
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.visualization import plot, read_runs, table


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("work_dirs", nargs="+", metavar="WORK_DIR", help="--work-dir of a training")
    parser.add_argument(
        "--out",
        metavar="FILE.png",
        help="picture to write (default: curves.png in the first WORK_DIR)",
    )
    args = parser.parse_args()
    out = args.out or Path(args.work_dirs[0], "curves.png")
    runs = read_runs(args.work_dirs)
    plot(runs, out)
    print(table(runs))
    print(f"\ncurves: {out}")


if __name__ == "__main__":
    run(main)
