"""Draws a sample of a test set, ground truth beside a detector's predictions, into one PNG."""

from argparse import ArgumentParser

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options
from halvit_mm.engine.config_errors import load_config
from halvit_mm.visualization import draw_predictions


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config that was tested")
    parser.add_argument("predictions", metavar="FILE.pkl", help="what tools/test.py --out wrote")
    parser.add_argument("out", metavar="OUT.png", help="picture to write")
    parser.add_argument("--num", type=int, default=8, help="number of images (default: 8)")
    parser.add_argument(
        "--score-thr", type=float, default=0.5, help="least score to draw (default: 0.5)"
    )
    add_cfg_options(parser, example="test_dataloader.dataset.data_root=DIR")
    args = parser.parse_args()
    draw_predictions(
        load_config(args.config, args.cfg_options),
        args.predictions,
        args.out,
        num=args.num,
        score_thr=args.score_thr,
    )
    print(f"predictions beside ground truth: {args.out}")


if __name__ == "__main__":
    run(main)
