"""Tests a checkpoint of a detector of mmdet or a classifier of mmpretrain."""

from argparse import ArgumentParser

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_common_arguments, parse
from halvit_mm.engine.config_errors import load_config
from halvit_mm.engine.launch import test


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_common_arguments(parser)
    parser.add_argument("--out", metavar="FILE.pkl", help="write the predictions")
    parser.add_argument("--json", metavar="FILE", help="write the metrics")
    parser.add_argument("--show", action="store_true", help="show images with predictions")
    parser.add_argument("--show-dir", metavar="DIR", help="write images with predictions")
    parser.add_argument("--wait-time", type=float, default=2.0, help="seconds for each image shown")
    parser.add_argument(
        "--tta", action="store_true", help="average over each image and its mirror image"
    )
    args = parse(parser)
    test(
        load_config(args.config, args.cfg_options),
        args.checkpoint,
        work_dir=args.work_dir,
        out=args.out,
        json_file=args.json,
        show=args.show,
        show_dir=args.show_dir,
        wait_time=args.wait_time,
        tta=args.tta,
        deterministic=args.deterministic,
        launcher=args.launcher,
        allow_partial=args.allow_partial,
    )


if __name__ == "__main__":
    run(main)
