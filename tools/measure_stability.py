"""Trains in several precisions with the same seed and compares losses and norms over time.

  tools/measure_stability.py configs/halving/half_vit_cifar10.py --steps 2000 \\
      --dtypes float32 bfloat16 --out precision.json --chart precision.png

Norms are of all gradients and weights, and of the matrices that can be tied.
"""

import argparse
import json
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options


def main() -> None:
    from halvit_mm.endurance.precision import DTYPES, as_data, draw, measure_precisions, table

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="trainings by iterations")
    parser.add_argument(
        "--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"],
        help="precisions; float16 needs a GPU (default: float32 bfloat16)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=2000, help="iterations (default: 2000)")
    parser.add_argument(
        "--interval", type=int, default=10, help="iterations between measurements (default: 10)"
    )
    parser.add_argument(
        "--work-dir", type=Path, default=Path("work_dirs/stability"), metavar="DIR",
        help="folder of the trainings (default: work_dirs/stability)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="keep the curves in this file"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE.png", help="draw the curves")
    add_cfg_options(parser, example="train_dataloader.batch_size=32")
    args = parser.parse_args()
    for option in ("steps", "interval"):
        if getattr(args, option) < 1:
            parser.error(f"--{option}: give 1 or more")

    from halvit_mm.benchmark.machine import describe
    from halvit_mm.files import whole_file

    found = measure_precisions(
        args.configs,
        args.work_dir,
        dtypes=args.dtypes,
        steps=args.steps,
        interval=args.interval,
        cfg_options=args.cfg_options,
        tell=lambda text: print(text, flush=True),
    )
    print(table(found))
    if args.out:
        content = dict(machine=describe(), trainings=as_data(found))
        with whole_file(args.out) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    if args.chart:
        draw(found, args.chart)


if __name__ == "__main__":
    run(main)
