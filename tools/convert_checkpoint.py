"""Converts a published checkpoint to this project's names; the source is recognised by its own.

python tools/convert_checkpoint.py resnet50-official.pth half_resnet50.pth
python tools/convert_checkpoint.py resnet50-torchvision.pth dense.pth --tied-stages
python tools/convert_checkpoint.py deit_base_patch16_224.pth dense_vit.pth
python tools/convert_checkpoint.py mini-swin-base.pth base_384.pth --img-size 384 --window-size 12
python tools/convert_checkpoint.py work_dirs/run/epoch_300.pth for_minivit.pth --to-official
"""

import argparse

import _path  # noqa: F401

from halvit_mm.cli import run
from halvit_mm.errors import UserError


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
        metavar="STAGE",
        help="stages of a dense ResNet to leave out, as they will be half-weight (default: 3 4); "
        "without numbers all are kept, for the dense twin",
    )
    parser.add_argument(
        "--img-size",
        type=int,
        metavar="PIXELS",
        help="side of the images that a ViT, Mini-DeiT or Mini-Swin is to be for "
        "(default: as it is)",
    )
    parser.add_argument(
        "--window-size",
        type=int,
        metavar="TOKENS",
        help="side of the windows that a Swin or Mini-Swin is to have (default: as it is)",
    )
    parser.add_argument(
        "--num-heads",
        type=int,
        metavar="HEADS",
        help="attention heads of a dense ViT, which its weights do not tell (default: width / 64)",
    )
    parser.add_argument(
        "--to-official",
        action="store_true",
        help="turns this project's Mini-DeiT or Mini-Swin into a file for MiniViT's own code",
    )
    args = parser.parse_args()
    for option in ("tied_stages", "num_heads"):
        if args.to_official and getattr(args, option) is not None:
            name = option.replace("_", "-")
            raise UserError(f"--{name} does not go with --to-official: leave it away")

    from halvit_mm.checkpoints.conversion import convert_file, export_file

    sizes = dict(img_size=args.img_size, window_size=args.window_size)
    if args.to_official:
        print(export_file(args.source, args.target, **sizes).summary())
    else:
        of_dense = dict(tied_stages=args.tied_stages, num_heads=args.num_heads)
        conversion = convert_file(args.source, args.target, **of_dense, **sizes)
        print(conversion.summary(args.target))
    print(f"the weights are in {args.target}")


if __name__ == "__main__":
    run(main)
