"""Files that torch writes: zip archives, whose bytes have checksums that torch never looks at.

A flipped bit in a weight goes unnoticed by ``torch.load``. Reading all of a file once more takes
half a second for each gigabyte.
"""

import zipfile
from pathlib import Path

from ..errors import UserError

#: What to do about a damaged file.
_AGAIN = "copy or download it again, or take an earlier one"


def check_archive(path: Path, *, contents: bool) -> None:
    """Looks whether a zip file of torch's is whole.

    Args:
        path: The file.
        contents: Compares each byte of it with the checksums in it, instead of the directory only.

    Raises:
        UserError: It is cut off or damaged, is compressed or of TorchScript.
        OSError: It cannot be read.
    """
    try:
        if not zipfile.is_zipfile(path):  # the directory stands at its end
            raise UserError(f"{path}: the checkpoint is cut off; {_AGAIN}")
        with zipfile.ZipFile(path) as archive:
            _check_directory(path, archive.infolist())
            wrong = archive.testzip() if contents else None
    except (UserError, OSError):
        raise
    except Exception as error:  # damaged bytes can raise anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: the checkpoint is damaged ({reason}); {_AGAIN}") from error
    if wrong is not None:
        raise UserError(f"{path}: the checkpoint is damaged ({wrong}: wrong checksum); {_AGAIN}")


def read_pickle(path: Path) -> bytes:
    """The pickle in a file that :func:`check_archive` found whole."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{archive.namelist()[0].partition('/')[0]}/data.pkl")


def _check_directory(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(
            f"{path}: this is a program of TorchScript, not a file of weights; save the model's "
            "state_dict() with torch.save instead"
        )
    folders = {name.partition("/")[0] for name in names}
    if not any(f"{folder}/data.pkl" in names for folder in folders):
        raise UserError(
            f"{path}: this is a zip file, but no checkpoint of PyTorch; give a .pth or "
            ".safetensors file"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(
            f"{path}: the file is compressed, which torch never does and which could unfold "
            "without limit; give the file that torch.save wrote"
        )
    total = sum(entry.file_size for entry in entries)
    if len(names) > len(set(names)) or len(folders) > 1 or total > path.stat().st_size:
        raise UserError(f"{path}: the checkpoint is damaged (its directory is wrong); {_AGAIN}")
