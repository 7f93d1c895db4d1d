"""Which checkpoint a training goes on from."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..checkpoints.reading import check_file, read_meta
from ..errors import UserError
from .saving import LAST, MID_EPOCH

_NAME = re.compile(rf"(?:epoch|iter)_(\d+)\.pth|{re.escape(MID_EPOCH)}")


def last_checkpoint(
    work_dir: str | Path, *, warn: Callable[[str], None] | None = None
) -> Path | None:
    """The latest checkpoint of a work directory that is whole to the last bit, if there is one.

    It is the one noted in the file ``last_checkpoint``. Where that one is gone or damaged, or
    nothing is noted, it is the one of the most iterations. A folder may have been moved since.

    Args:
        work_dir: The folder.
        warn: Is told about each damaged checkpoint that the result takes the place of.

    Raises:
        UserError: There are checkpoints, and all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for path in _candidates(Path(work_dir)):
        if path in damaged:
            continue
        try:
            check_file(path, contents=True)
        except UserError as error:
            damaged[path] = str(error)
            continue
        for fault in damaged.values() if warn is not None else ():
            warn(f"--resume: {fault}. Training continues from {path} instead")
        return path
    if damaged:
        raise UserError(
            f"--resume: no checkpoint in {work_dir} is whole ({'; '.join(damaged.values())}); "
            "remove them to train from the beginning, or name another one"
        )
    return None


def _candidates(work_dir: Path) -> Iterator[Path]:
    """The checkpoint that is noted, then all by their iterations, the last first."""
    note = work_dir / LAST
    noted = Path(note.read_text(errors="replace").strip()) if note.is_file() else Path()
    # A folder that was moved or copied holds the old path; hooks can save to another folder.
    for path in (work_dir / noted.name, noted) if noted.name else ():
        if path.is_file():
            yield path
            break
    found = [path for path in work_dir.glob("*.pth") if _NAME.fullmatch(path.name)]
    yield from sorted(found, key=_progress, reverse=True)


def _progress(checkpoint: Path) -> tuple[int, int]:
    """Orders checkpoints: by iterations, and where these are unknown by the number in the name."""
    number = int(_NAME.fullmatch(checkpoint.name)[1] or 0)
    try:
        iterations = read_meta(checkpoint)["iter"]
    except (UserError, KeyError):
        iterations = -1
    return iterations, number
