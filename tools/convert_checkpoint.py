"""Converts a published checkpoint to this project's names; the source is recognised by its own.

python tools/convert_checkpoint.py resnet50-official.pth half_resnet50.pth
python tools/convert_checkpoint.py resnet50-torchvision.pth dense.pth --tied-stages
"""

import argparse

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", help="file or http(s) address of the weights")
    parser.add_argument("target", metavar="DST", help="file to write; must not exist")
    parser.add_argument(
        "--tied-stages",
        type=int,
        nargs="*",
        default=(3, 4),
        metavar="STAGE",
        help="stages of a dense ResNet to leave out, as they will be half-weight (3 4); without "
        "numbers all are kept, for the dense twin",
    )
    args = parser.parse_args()

    from halvit_mm.checkpoints.conversion import convert_file

    conversion = convert_file(args.source, args.target, tied_stages=args.tied_stages)
    print(conversion.summary(args.target))
    print(f"the weights are in {args.target}")


if __name__ == "__main__":
    run(main)
