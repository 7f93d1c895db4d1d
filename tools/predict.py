"""Runs a detector or a classifier on images and videos, and writes what it finds.

The folder --out gets pictures with the results drawn into them (pictures/), results.json (COCO's
results format; of a classifier the likeliest classes), images.json (the images that results.json
speaks of, with their sizes, and the categories), summary.csv and, if wanted, masks as PNG (masks/).
Inputs that cannot be read are passed over, listed at the end, and make the exit status 3.
"""

import sys
from argparse import ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options
from halvit_mm.errors import UserError

SOME_UNREADABLE = 3


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of the model")
    parser.add_argument("checkpoint", help="its weights, or a model *.onnx")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder of images at any depth, quoted pattern such as 'a/**/*.jpg', or "
        "- for a list on standard input, a path a line",
    )
    parser.add_argument(
        "--out", default="predictions", metavar="DIR", help="folder to write (default: predictions)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace earlier predictions in that folder"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 (default: cpu)")
    parser.add_argument("--batch-size", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        help="least score of an object (default: 0.3; classifiers have none)",
    )
    parser.add_argument(
        "--top-k", type=int, default=5, help="classes of a classifier to write (default: 5)"
    )
    parser.add_argument(
        "--pictures", action=BooleanOptionalAction, default=True, help="draw pictures (default)"
    )
    parser.add_argument(
        "--masks",
        choices=["rle", "png", "both", "none"],
        default="rle",
        help="masks within results.json, as PNG with an object's number in each pixel, both, or "
        "neither (default: rle)",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="each N-th frame of videos (default: 1)"
    )
    add_cfg_options(parser, example="model.test_cfg.rcnn.max_per_img=300")
    args = parser.parse_args()
    for option in ("batch_size", "top_k", "every"):
        if (number := getattr(args, option)) < 1:
            raise UserError(f"--{option.replace('_', '-')} {number}: give 1 or more")
    if not 0 <= args.score_threshold <= 1:
        raise UserError(f"--score-threshold {args.score_threshold}: give a number from 0 to 1")

    # Cheap checks come before imports that take seconds.
    from halvit_mm.inference.inputs import find_inputs

    inputs = find_inputs(
        args.inputs, out=Path(args.out), listed=sys.stdin if "-" in args.inputs else ()
    )
    from halvit_mm.inference import load
    from halvit_mm.inference.output import OutputFolder
    from halvit_mm.inference.run import predict_files

    output = OutputFolder(
        args.out,
        pictures=args.pictures,
        masks=args.masks,
        top_k=args.top_k,
        overwrite=args.overwrite,
    )
    predictor = load(
        args.config,
        args.checkpoint,
        device=args.device,
        score_threshold=args.score_threshold,
        batch_size=args.batch_size,
        cfg_options=args.cfg_options,
    )
    summary = predict_files(
        predictor,
        inputs,
        output,
        batch_size=args.batch_size,
        score_threshold=args.score_threshold,
        every=args.every,
    )
    images = f"{summary.images} image{'' if summary.images == 1 else 's'}"
    print(f"{images}, {summary.results} results: {Path(args.out) / 'results.json'}")
    if summary.problems:
        print(f"{len(summary.problems)} of the inputs could not be used:", file=sys.stderr)
        for problem in summary.problems:
            print(f"  {problem}", file=sys.stderr)
        return SOME_UNREADABLE
    return 0


if __name__ == "__main__":
    run(main)
