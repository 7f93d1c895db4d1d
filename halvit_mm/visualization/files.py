"""Writing a picture whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..files import whole_file


@contextmanager
def png_file(out: str | Path) -> Iterator[Path]:
    """A path to write a PNG to, which becomes ``out`` when the block ends without an error.

    What is wrong with ``out`` shows on entering, before the work of drawing starts.

    Raises:
        UserError: ``out`` does not end in .png, is a folder, or cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: the picture is a PNG; give a name that ends in .png")
    if out.is_dir():
        raise UserError(f"{out}: there is a folder of this name; choose another name")
    with whole_file(out) as temporary:
        yield temporary
