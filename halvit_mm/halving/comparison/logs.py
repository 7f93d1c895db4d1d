"""What a training or a test wrote about its accuracy."""

import json
from pathlib import Path

from ...errors import UserError

_KEY = "accuracy/top1"


def logged_accuracy(work_dir: Path) -> float:
    """The last top-1 accuracy of a training, in percent.

    Raises:
        UserError: There is no log or no accuracy in it.
    """
    # Not by read_run of visualization: it needs a logged step, and short trainings have none.
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    lines = [line for file in files for line in file.read_text().splitlines() if _KEY in line]
    if not lines:
        raise UserError(f"{work_dir}: its log has no {_KEY}; remove the folder to train again")
    return float(json.loads(lines[-1])[_KEY])


def tested_accuracy(file: Path) -> float:
    """The top-1 accuracy in what tools/test.py wrote, in percent.

    Raises:
        UserError: The file is damaged or has no accuracy.
    """
    try:
        return float(json.loads(file.read_text())[_KEY])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: there is no {_KEY} in it; remove it to test again") from error
