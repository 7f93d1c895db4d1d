"""Draws a model's predictions of a test set into one PNG.

Of a detector: a sample of images, ground truth beside predictions. Of a classifier: the confusion
matrix, the classes that are confused most often, and the worst mistakes.
"""

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
    parser.add_argument(
        "--num", type=int, help="number of images (default: 8 of a detector, 18 of a classifier)"
    )
    parser.add_argument(
        "--score-thr",
        type=float,
        default=0.5,
        help="least score of a detector's predictions to draw (default: 0.5)",
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
    print(f"predictions: {args.out}")


if __name__ == "__main__":
    run(main)
