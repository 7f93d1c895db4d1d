"""Turns a dense checkpoint into weights of a half-weight model, worth fine-tuning.

The checkpoint is one of timm, DeiT, torchvision, mmpretrain or this project, recognised by its
names. OUT.pth gets the report OUT.json and the picture OUT.png beside it. What was interrupted goes
on after the last finished unit when the same command is given again.

python tools/halve.py deit_small.pth half.pth --config configs/imagenet/halvit_tiny_imagenet.py
python tools/halve.py resnet50.pth half.pth --config configs/imagenet/half_resnet50_imagenet.py \\
    --calib photographs --images 128
"""

import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.engine.arguments import add_cfg_options
from halvit_mm.engine.config_errors import load_config
from halvit_mm.errors import UserError
from halvit_mm.halving.picture import draw_report
from halvit_mm.halving.reconstruction import Reconstruction
from halvit_mm.halving.run import METHODS, halve


def main() -> None:
    defaults = Reconstruction()
    methods = [f"  {name:15} {meaning}" for name, meaning in METHODS.items()]
    parser = ArgumentParser(
        description=__doc__,
        epilog="\n".join(["methods, of which the last is the default:", *methods]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="DENSE_CKPT", help="file or http(s) address of weights")
    parser.add_argument("target", metavar="OUT", help="file to write, *.pth; must not exist")
    parser.add_argument("--config", required=True, help="config of the half-weight model")
    parser.add_argument(
        "--calib",
        metavar="FOLDER",
        help="folder of images, without labels (default: the config's training set)",
    )
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="how many of them (default: 256)"
    )
    parser.add_argument(
        "--img-size",
        type=_size,
        metavar="N|HxW",
        help="pixels to resize images to (default: as the config's test pipeline makes them)",
    )
    parser.add_argument(
        "--method", choices=METHODS, default="reconstruction", help="see the end of this text"
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"of reconstruction, for each unit (default: {defaults.steps})",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images in a step of reconstruction (default: as many as have 1600 tokens)",
    )
    parser.add_argument(
        "--lr",
        type=float,
        metavar="X",
        help=f"learning rate of reconstruction (default: {defaults.lr:g})",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of images and steps (default: 0)"
    )
    add_cfg_options(parser, example="model.backbone.arch=nano")
    args = parser.parse_args()
    target = Path(args.target).expanduser()
    if target.suffix in (".json", ".png"):
        raise UserError(f"{target}: the report gets this name; name the weights *.pth")
    reconstruction = _reconstruction(args.method, args.steps, args.batch_size, args.lr)
    config = load_config(args.config, args.cfg_options)
    try:
        report = halve(
            args.source,
            target,
            config=config,
            calibration=args.calib,
            images=args.images,
            img_size=args.img_size,
            method=args.method,
            reconstruction=reconstruction,
            seed=args.seed,
        )
    except KeyboardInterrupt:
        if Path(f"{target}.partial").exists():
            print("the same command goes on after the last finished unit", file=sys.stderr)
        raise
    report.save(target.with_suffix(".json"))
    draw_report(report, target.with_suffix(".png"))
    print("\n".join(report.lines()))


def _reconstruction(
    method: str, steps: int | None, batch_size: int | None, lr: float | None
) -> Reconstruction | None:
    given = dict(steps=steps, batch_size=batch_size, lr=lr)
    given = {name: value for name, value in given.items() if value is not None}
    if method == "reconstruction":
        try:
            return Reconstruction(**given)
        except ValueError as error:
            raise UserError(f"--steps, --batch-size, --lr: {error}") from error
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        raise UserError(f"{option} does not go with --method {method}: leave it away")
    return None


def _size(text: str) -> int | tuple[int, int]:
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ArgumentTypeError(f"give pixels above 0, as 224 or 480x640, not {text!r}")
    numbers = tuple(map(int, sides))
    return numbers if len(numbers) == 2 else numbers[0]


if __name__ == "__main__":
    run(main)
