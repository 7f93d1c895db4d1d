"""Writes scikit-learn's handwritten digits as images, one folder a class.

python make_digit_images.py data/digit_images
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from halvit_mm.cli import run
from halvit_mm.errors import UserError
from halvit_mm.files import staged_folder


def make_digit_images(root: Path) -> None:
    """Writes ``root/{train,val}/CLASS/*.png``, 32 × 32 pixels; every fifth digit validates.

    Raises:
        UserError: ``root`` holds something already.
    """
    from sklearn.datasets import load_digits

    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} already holds something; remove it or choose another folder")
    digits = load_digits()
    with staged_folder(root.resolve()) as folder:
        for i, (grey, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            file = folder / ("val" if i % 5 == 0 else "train") / str(label) / f"{i:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray((255 / 16 * grey).astype(np.uint8))
            picture.resize((32, 32), Image.Resampling.BICUBIC).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("root", type=Path, help="a new folder for the images")
    root = parser.parse_args().root
    make_digit_images(root)
    print(f"the digits are in {root}")


if __name__ == "__main__":
    run(main)
