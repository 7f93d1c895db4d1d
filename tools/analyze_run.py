"""Plots loss, accuracy, learning rate, memory and speed of trainings and prints a table of them."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import get_args

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.files import temporary_beside
from halvit_mm.visualization import Axis, plot, read_runs, table


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("work_dirs", nargs="+", metavar="WORK_DIR", help="--work-dir of a training")
    parser.add_argument(
        "--out",
        metavar="FILE.png",
        help="picture to write (default: curves.png in the first WORK_DIR)",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="also write the table")
    parser.add_argument(
        "--x", choices=get_args(Axis), help="x axis (default: epochs where all runs count them)"
    )
    parser.add_argument(
        "--by-seed",
        action="store_true",
        help="one colour and one row for runs that differ only in a seed at the end of their "
        "names, such as a_seed0 and a_seed1; the row gives mean ± half of the range",
    )
    args = parser.parse_args()
    out = args.out or Path(args.work_dirs[0], "curves.png")
    runs = read_runs(args.work_dirs)
    plot(runs, out, x=args.x, by_seed=args.by_seed)
    text = table(runs, by_seed=args.by_seed)
    if args.markdown is not None:
        with temporary_beside(args.markdown) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, args.markdown)
    print(text)
    print(f"\ncurves: {out}")


if __name__ == "__main__":
    run(main)
