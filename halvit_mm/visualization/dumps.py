"""The predictions that a test wrote."""

from pathlib import Path
from typing import Any

from ..checkpoints.plain_pickle import read_pickle
from ..errors import UserError


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """Reads what ``tools/test.py --out`` wrote: one dict for each image.

    No code in the file runs: it may hold plain types, arrays and tensors.

    Raises:
        UserError: The file is missing, is no pickle, or holds something else.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: cannot read the predictions (this is no file); name a file")
        samples = read_pickle(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the predictions ({error.strerror}); "
            "write them with tools/test.py --out"
        ) from error
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"{path}: this is no whole pickle ({reason!r:.200}); write it again with tools/test.py "
            "--out"
        ) from error
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise UserError(f"{path}: not a list of dicts; give what tools/test.py --out wrote")
    if not samples:
        raise UserError(f"{path}: there are no predictions in it; test on at least one image")
    return samples
