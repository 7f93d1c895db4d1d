"""Runs the project's commands for long and reports whether memory grows, as JSON.

  tools/soak.py train configs/digits/mask_rcnn_halvit_digits.py --minutes 30 --out train.json
  tools/soak.py predict CONFIG CHECKPOINT PICTURES --images 10000 --out predict.json
  tools/soak.py page CONFIG CHECKPOINT PICTURES --images 10000 --out page.json

Memory, threads, open and temporary files are sampled from outside, and a line is fitted to each.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="training, evaluations and checkpoints")
    train.add_argument("config", help="config of a training by epochs")
    train.add_argument("--minutes", type=float, default=30, help="default: 30")
    train.add_argument(
        "--warm-up", type=float, default=5, metavar="MINUTES", help="left out of trends; default: 5"
    )
    train.add_argument(
        "--interval", type=float, default=10, metavar="SECONDS", help="between samples; default: 10"
    )
    train.add_argument("--work-dir", type=Path, default=Path("work_dirs/soak"), metavar="DIR")
    add_cfg_options(train, example="train_dataloader.num_workers=4")
    train.set_defaults(soak=_train)
    # The page deletes pictures after some minutes; until then they become more.
    for name, what, soak, warm_up in (
        ("predict", "predictions on the command line", _predict, 1000),
        ("page", "predictions on the page, over HTTP", _page, 2500),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("config", help="config of the model")
        command.add_argument("checkpoint", help="its weights")
        command.add_argument("pictures", help="folder of images, which come again and again")
        command.add_argument("--images", type=int, default=10_000, help="default: 10,000")
        command.add_argument(
            "--warm-up", type=int, default=warm_up, metavar="IMAGES",
            help=f"left out of trends; default: {warm_up:,}",
        )  # fmt: skip
        command.add_argument(
            "--work-dir", type=Path, default=Path(f"work_dirs/soak_{name}"), metavar="DIR",
            help=f"a new folder; default: work_dirs/soak_{name}",
        )  # fmt: skip
        command.set_defaults(soak=soak)
    commands.choices["predict"].add_argument(
        "--interval", type=float, default=2, metavar="SECONDS", help="between samples; default: 2"
    )
    commands.choices["page"].add_argument(
        "--minutes", type=float, default=float("inf"), help="end earlier, after so long"
    )
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args()
    # Else the command that is watched would stay behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    from halvit_mm.benchmark.machine import describe
    from halvit_mm.files import whole_file

    with whole_file(args.out) as temporary:
        found = args.soak(args)
        content = dict(machine=describe(), soak=args.command, **found)
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    for name, trend in found["trends"].items():
        print(
            f"{name:16} {trend['slope']:+.4g} [{trend['low']:+.4g}, {trend['high']:+.4g}] "
            f"per {found['per']}, mean {trend['mean']:.4g}, {trend['samples']} samples"
        )


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from halvit_mm.endurance.training import soak_training

    return soak_training(
        args.config,
        args.work_dir,
        minutes=args.minutes,
        interval=args.interval,
        warm_up=args.warm_up,
        cfg_options=args.cfg_options,
    )


def _predict(args: argparse.Namespace) -> dict[str, Any]:
    from halvit_mm.endurance.predicting import soak_predicting

    return soak_predicting(
        args.config,
        args.checkpoint,
        args.pictures,
        args.work_dir,
        images=args.images,
        interval=args.interval,
        warm_up=args.warm_up,
    )


def _page(args: argparse.Namespace) -> dict[str, Any]:
    from halvit_mm.endurance.page import soak_page

    return soak_page(
        args.config,
        args.checkpoint,
        args.pictures,
        args.work_dir,
        images=args.images,
        warm_up=args.warm_up,
        seconds=60 * args.minutes,
    )


if __name__ == "__main__":
    run(main)
