"""Makes the set of scattered handwritten digits that the demo trains on.

python tools/make_digits.py data/digits
"""

import argparse

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", help="folder of the set; a set with other settings is replaced")
    parser.add_argument("--num-train", type=int, default=600, help="training images")
    parser.add_argument("--num-val", type=int, default=100, help="validation images")
    parser.add_argument("--image-size", type=int, default=128, help="side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    from halvit_mm.datasets.digits import make_digits

    print(f"the digits are in {make_digits(**vars(args))}")


if __name__ == "__main__":
    run(main)
