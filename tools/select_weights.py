"""Starts a narrow dense model from a wide one by weight selection (Xu et al., ICLR 2024).

The checkpoint that it writes starts a training of the narrow model:

  tools/select_weights.py dense.pth narrow.pth --config configs/halving/narrow_vit_cifar10.py
  tools/train.py configs/halving/narrow_vit_cifar10.py --load-from narrow.pth
"""

import argparse

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="DENSE_CKPT", help="checkpoint of the wide dense model")
    parser.add_argument("target", metavar="OUT", help="file to write; must not exist")
    parser.add_argument(
        "--config", required=True, metavar="NARROW_CONFIG", help="config of the narrow dense model"
    )
    args = parser.parse_args()

    from halvit_mm.halving.selection import select_file

    weights = select_file(args.source, args.target, args.config)
    numbers = sum(value.numel() for value in weights.values())
    print(f"{len(weights)} tensors with {numbers:,} numbers; they are in {args.target}")


if __name__ == "__main__":
    run(main)
