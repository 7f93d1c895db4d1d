"""The command line options that training and testing share; named as in mmdet's tools."""

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from mmengine.config import DictAction


def add_common_arguments(parser: ArgumentParser) -> None:
    """Adds the options that both tools take."""
    parser.add_argument("--work-dir", help="folder of logs and checkpoints")
    add_cfg_options(parser, example="model.backbone.arch=nano train_cfg.max_epochs=3")
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started one process for each GPU (see the dist_*.sh beside this file)",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="for launchers")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="give the same bits each time on the same machine",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="load what fits of a checkpoint that does not fit the model",
    )


def add_cfg_options(parser: ArgumentParser, *, example: str) -> None:
    """Adds ``--cfg-options``, with which every tool that takes a config changes it."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Options,
        metavar="KEY=VALUE",
        help=f"set options of the config, e.g. {example}",
    )


def parse(parser: ArgumentParser, argv: list[str] | None = None) -> Namespace:
    """Parses and hands the local rank to mmengine, which looks for it in the environment."""
    args = parser.parse_args(argv)
    if args.launcher != "none":
        os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


class _Options(DictAction):
    """mmengine's KEY=VALUE parsing, with an error of argparse's where it has a traceback."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str = ""
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ValueError, AssertionError):
            parser.error(f"{option_string} takes KEY=VALUE, not {' '.join(values)!r}")
