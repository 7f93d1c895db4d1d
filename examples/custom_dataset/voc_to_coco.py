"""Turns boxes in Pascal VOC's format into COCO's, in the layout that the config here reads.

python voc_to_coco.py BCCD_Dataset/BCCD data/bccd --classes RBC WBC Platelets

Reads ``Annotations/*.xml``, ``ImageSets/Main/{train,val}.txt`` and ``JPEGImages/*.jpg``, and writes
``annotations/{train,val}.json`` and ``images/``.
"""

import argparse
import shutil
from pathlib import Path
from xml.etree import ElementTree

from halvit_mm.cli import run
from halvit_mm.datasets.coco_files import write_instances
from halvit_mm.errors import UserError
from halvit_mm.files import staged_folder


def voc_to_coco(voc: Path, root: Path, *, classes: list[str], splits: dict[str, str]) -> None:
    """Writes the set ``root``, with a copy of the images.

    Args:
        voc: Folder of the set in VOC's format.
        root: A folder that is new or empty.
        classes: Names of the classes, in the order of the config.
        splits: Which list in ``ImageSets/Main`` is "train", and which is "val".

    Raises:
        UserError: A file is missing or is not what it should be, or ``root`` holds something.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root} already holds something; remove it or choose another folder")
    with staged_folder(root.resolve()) as folder:
        (folder / "images").mkdir()
        for split, listed in splits.items():
            images, annotations = [], []
            names = _read(voc / "ImageSets" / "Main" / f"{listed}.txt").split()
            for number, name in enumerate(names, start=1):
                image, boxes = read_annotation(voc / "Annotations" / f"{name}.xml", classes)
                picture = voc / "JPEGImages" / f"{name}.jpg"
                if not picture.is_file():
                    raise UserError(f"{picture}: there is no such image; complete the set")
                shutil.copy(picture, folder / "images")
                images.append(dict(id=number, file_name=picture.name, **image))
                annotations += [dict(image_id=number, **box) for box in boxes]
            write_instances(
                folder / "annotations" / f"{split}.json",
                info={"description": f"{voc.name}, {listed}"},
                categories=classes,
                images=images,
                annotations=annotations,
            )


def read_annotation(file: Path, classes: list[str]) -> tuple[dict, list[dict]]:
    """The image's size and the boxes in one of VOC's XML files, as COCO has them.

    VOC counts pixels from 1 and both corners belong to the box; COCO has the first corner, counted
    from 0, and the size.

    Raises:
        UserError: It is not such a file, or names a class that is not among ``classes``.
    """
    try:
        tree = ElementTree.fromstring(_read(file))
        image = {side: int(tree.findtext(f"size/{side}")) for side in ("width", "height")}
        boxes = []
        for thing in tree.iter("object"):
            kind = thing.findtext("name")
            if kind not in classes:
                raise UserError(f"{file}: {kind} is not among the classes; add it to --classes")
            corners = ("xmin", "ymin", "xmax", "ymax")
            left, top, right, bottom = (float(thing.findtext(f"bndbox/{c}")) for c in corners)
            width, height = right - left + 1, bottom - top + 1
            boxes.append(
                {
                    "category_id": classes.index(kind) + 1,
                    "bbox": [left - 1, top - 1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise UserError(
            f"{file}: this is no annotation in Pascal VOC's format ({error})"
        ) from error
    return image, boxes


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); check the folder of the set") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("voc", type=Path, help="folder of the set in VOC's format")
    parser.add_argument("root", type=Path, help="a new folder for the set in COCO's format")
    parser.add_argument("--classes", nargs="+", required=True, help="names, in the config's order")
    parser.add_argument("--train", default="train", help="list of training images (train)")
    parser.add_argument("--val", default="val", help="list of validation images (val)")
    args = parser.parse_args()
    splits = dict(train=args.train, val=args.val)
    voc_to_coco(args.voc, args.root, classes=args.classes, splits=splits)
    print(f"the set is in {args.root}")


if __name__ == "__main__":
    run(main)
