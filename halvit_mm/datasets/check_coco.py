"""The check of a data set in COCO's format before a run."""

import logging
from collections.abc import Mapping
from pathlib import Path

from mmengine.logging import print_log

from ..errors import UserError
from .check_images import refuse_bad_images
from .coco_rules import RULES
from .coco_set import CocoSet
from .faults import Faults

_MORE = "tools/check_dataset.py CONFIG lists all"


def check_coco(
    dataset: Mapping, *, option: str, num_classes: int | Mapping[str, int] | None = None
) -> None:
    """Checks the annotation file, its classes, and that all images are there and whole.

    What a rule of :mod:`~halvit_mm.datasets.coco_rules` deals with is counted in the log.

    Args:
        dataset: Config of a data set that mmdet's ``CocoDataset`` or a subclass reads.
        option: Its path in the config.
        num_classes: The model's number of classes, or what ``count_classes`` found.

    Raises:
        UserError: Something would stop or spoil the run.
    """
    coco = CocoSet.read(dataset, option=option)
    if coco is None:
        return
    faults = coco.find_faults(keep=1)
    _refuse(faults, coco.file)
    coco.check_classes(num_classes)
    paths = coco.image_paths()
    refuse_bad_images(list(paths.values()), which=f"that {coco.file} names", option=option)
    coco.note_other_sizes(paths, faults)
    _refuse(faults, coco.file)
    handled = faults.of(refused=False)
    if handled:
        remarks = (
            f"{RULES[kind].fault}: {count} ({RULES[kind].treatment})"
            for kind, count in handled.items()
        )
        print_log(
            f"{coco.file}, {option}:\n  " + "\n  ".join(remarks) + f"\n  {_MORE}",
            "current",
            logging.WARNING,
        )


def _refuse(faults: Faults, file: Path) -> None:
    """Raises a UserError with the first fault that the set is refused for, if there is one."""
    refused = faults.of(refused=True)
    if not refused:
        return
    first = faults.examples[next(iter(refused))][0]
    count = sum(refused.values())
    raise UserError(
        f"{file} has {count} fault{'' if count == 1 else 's'} that would stop or spoil the run, "
        f"first {first.sentence}: {first.treatment}; {_MORE}"
        + "".join(f"\n  {RULES[kind].fault}: {number}" for kind, number in refused.items())
    )
