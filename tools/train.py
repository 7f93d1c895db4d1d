"""Trains a detector of mmdet or a classifier of mmpretrain from its config."""

from argparse import ArgumentParser

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_common_arguments, parse
from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.launch import train


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    add_common_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate from the config's batch size to this run's",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from a checkpoint; without a value from the last one in the work directory",
    )
    args = parse(parser)
    train(
        load_config(args.config, args.cfg_options),
        work_dir=args.work_dir,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        resume=args.resume,
        launcher=args.launcher,
        allow_partial=args.allow_partial,
    )


if __name__ == "__main__":
    run(main)
