"""Trains a detector of mmdet or a classifier of mmpretrain from its config."""

from argparse import ArgumentParser

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_common_arguments, parse
from halvit_mm.engine.bad_numbers import ACTIONS
from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.launch import train
from halvit_mm.engine.mixed_precision import DTYPES


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    add_common_arguments(parser)
    parser.add_argument(
        "--amp",
        nargs="?",
        const="float16",
        choices=DTYPES,
        help="mixed precision; without a value float16, which needs a GPU",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate from the config's batch size to this run's",
    )
    parser.add_argument(
        "--load-from", metavar="CHECKPOINT", help="start from the weights of a checkpoint"
    )
    parser.add_argument(
        "--new-head",
        action="store_true",
        help="leave out what depends on the number of classes when starting from a checkpoint",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from a checkpoint; without a value from the last one in the work directory",
    )
    parser.add_argument(
        "--checkpoint-interval",
        type=int,
        metavar="ITERATIONS",
        help="save within epochs too, every so many iterations, to resume from",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="log for TensorBoard as well: tensorboard --logdir WORK_DIR",
    )
    parser.add_argument(
        "--on-bad-numbers",
        choices=ACTIONS,
        help="stop before NaN or infinite losses and gradients reach the weights (default), or "
        "skip such updates",
    )
    args = parse(parser)
    train(
        load_config(args.config, args.cfg_options),
        work_dir=args.work_dir,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        load_from=args.load_from,
        new_head=args.new_head,
        resume=args.resume,
        checkpoint_interval=args.checkpoint_interval,
        tensorboard=args.tensorboard,
        deterministic=args.deterministic,
        on_bad_numbers=args.on_bad_numbers,
        launcher=args.launcher,
        allow_partial=args.allow_partial,
    )


if __name__ == "__main__":
    run(main)
