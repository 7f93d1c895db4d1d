"""The predictions that a test wrote."""

import pickle
from pathlib import Path
from typing import Any

from ..errors import UserError


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """Reads what ``tools/test.py --out`` wrote: one dict for each image.

    A pickle can run any code while it loads: read only files that you trust.

    Raises:
        UserError: The file is missing, is no pickle, or holds something else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            samples = pickle.load(file)
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the predictions ({error.strerror}); "
            "write them with tools/test.py --out"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(
            f"{path}: this is no whole pickle ({error}); write it again with tools/test.py --out"
        ) from error
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise UserError(f"{path}: not a list of dicts; give what tools/test.py --out wrote")
    if not samples:
        raise UserError(f"{path}: there are no predictions in it; test on at least one image")
    return samples
