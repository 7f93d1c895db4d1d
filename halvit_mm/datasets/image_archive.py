"""npz archives of encoded images with a class each: reading, checking and unpacking them.

An archive is a file ``<name>_<split>.npz`` with the arrays ``data`` (bytes of all images, one after
the other, uint8), ``off`` (where each image begins and, at last, where the last one ends), ``label``
(each image's class, from 0) and ``classes`` (the names of the classes).
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import staged_folder

_KEYS = ("data", "off", "label")
_MARKS = {  # how an encoded image begins: how it ends, its file extension
    b"\xff\xd8\xff": (b"\xff\xd9", "jpg"),
    b"\x89PNG\r\n\x1a\n": (b"IEND\xaeB`\x82", "png"),
}
# What numpy raises for a file that is cut off, damaged, a pickle, or (TypeError, and AttributeError
# in Python 3.10, as there is no `with`) a single array.
_UNREADABLE = (
    AttributeError,
    EOFError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def unpack_images(
    source: str | Path, destination: str | Path, *, classes: Sequence[str] | None = None
) -> dict[str, int]:
    """Writes the images of archives to ``destination/<split>/<class>/00000.jpg`` and so on.

    This is how mmpretrain's ``CustomDataset`` wants them; it numbers the classes in alphabetical
    order of their folders. The bytes of an image stay as they are. Images of a class are numbered
    in the order of the archive.

    Args:
        source: A folder with the archives of a set, one a split, or a single archive.
        destination: A new or empty folder.
        classes: Names of the classes in the order of their numbers, instead of the archive's.

    Returns:
        The number of images of each split.

    Raises:
        UserError: ``source`` is missing or holds no archive; an archive is cut off, contradicts
            itself or another split, or holds something else than JPEG and PNG images;
            ``destination`` is in use or cannot be written.
    """
    destination = Path(destination).expanduser().resolve()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} exists and is not an empty folder; choose a new one")
    archives = find_archives(Path(source).expanduser())
    counts: dict[str, int] = {}
    first: Sequence[str] | None = None
    with staged_folder(destination) as folder:
        for split, file in archives.items():
            archive = ImageArchive.read(file, classes)
            first = first or archive.classes
            if archive.classes != first:
                raise UserError(
                    f"{file} has other classes than the archives of other splits beside it; unpack "
                    "each set from a folder of its own"
                )
            counts[split] = archive.write(folder / split)
    return counts


@dataclass(frozen=True)
class ImageArchive:
    """The images of one archive, checked: the arrays agree with each other.

    Attributes:
        file: Where it was read from.
        data: Bytes of all N images, one after the other, uint8.
        off: (N + 1), where each image begins and, at last, where the last one ends.
        label: (N), each image's class.
        classes: Names of the classes.
    """

    file: Path
    data: np.ndarray
    off: np.ndarray
    label: np.ndarray
    classes: Sequence[str]

    @classmethod
    def read(cls, file: Path, classes: Sequence[str] | None = None) -> "ImageArchive":
        """Reads an archive and checks its arrays against each other.

        Args:
            file: The archive.
            classes: Names of the classes in the order of their numbers, instead of the archive's.

        Raises:
            UserError: The file is cut off, is no archive of images or contradicts itself.
        """
        try:
            with np.load(file, allow_pickle=False) as content:
                arrays = {key: content[key] for key in (*_KEYS, "classes") if key in content}
        except _UNREADABLE as error:
            raise UserError(
                f"{file} is not a whole npz archive ({error}); fetch it anew"
            ) from error
        missing = [key for key in _KEYS if key not in arrays]
        if missing:
            raise UserError(f"{file} lacks {', '.join(missing)}: this is no archive of images")
        if classes is None:
            if "classes" not in arrays:
                raise UserError(f"{file} names no classes: give their names with --classes")
            classes = [str(name) for name in arrays["classes"].ravel()]
        _check_names(classes, file)

        data, off, label = (arrays[key] for key in _KEYS)
        kinds = (data.dtype == np.uint8, off.dtype.kind in "iu", label.dtype.kind in "iu")
        if not all(kinds) or {data.ndim, off.ndim, label.ndim} != {1}:
            raise UserError(
                f"{file}: `data` must be a row of bytes, `off` and `label` rows of whole numbers: this "
                "is no archive of images"
            )
        off = off.astype(np.int64)
        if (
            len(off) != len(label) + 1
            or off[0] != 0
            or off[-1] != len(data)
            or any(np.diff(off) < 1)
        ):
            raise UserError(
                f"{file} contradicts itself: `off` must rise from 0 to the length of `data` in as many "
                "steps as there are labels; fetch it anew"
            )
        if len(label) == 0:
            raise UserError(f"{file} has no images: fetch it anew")
        if label.min() < 0 or label.max() >= len(classes):
            raise UserError(
                f"{file} has labels from {label.min()} to {label.max()}, but there are {len(classes)} "
                "classes, numbered from 0: correct --classes or fetch the archive anew"
            )
        return cls(file, data, off, label, classes)

    def __len__(self) -> int:
        return len(self.label)

    def image(self, number: int) -> np.ndarray:
        """The bytes of an encoded image, uint8; a view of :attr:`data`."""
        return self.data[self.off[number] : self.off[number + 1]]

    def write(self, folder: Path) -> int:
        """Writes the images below ``folder``, a folder a class, and returns how many there are.

        Raises:
            UserError: An image is neither a whole JPEG nor a whole PNG.
        """
        for name in self.classes:  # also those without an image, so that all splits number alike
            (folder / name).mkdir(parents=True)
        written = [0] * len(self.classes)
        for i, label in enumerate(self.label.tolist()):
            image = self.image(i).tobytes()
            name = f"{written[label]:05}.{self._extension(image, i)}"
            (folder / self.classes[label] / name).write_bytes(image)
            written[label] += 1
        return len(self)

    def _extension(self, image: bytes, number: int) -> str:
        for start, (end, extension) in _MARKS.items():
            if image.startswith(start) and image.endswith(end):
                return extension
        raise UserError(
            f"image {number} of {self.file} is no whole JPEG or PNG file; fetch the archive anew"
        )


def find_archives(source: Path) -> dict[str, Path]:
    """The archives in a folder, or a single one, by split: the name's part after the last ``_``.

    Raises:
        UserError: There is none, or there are several of one split.
    """
    if not source.exists():
        raise UserError(f"the source {source} does not exist; name an npz archive or its folder")
    files = sorted(source.glob("*.npz")) if source.is_dir() else [source]
    archives = {file.stem.rpartition("_")[2]: file for file in files}
    if not archives:
        raise UserError(f"there is no archive <name>_<split>.npz in {source}; name their folder")
    if len(archives) < len(files):
        raise UserError(
            f"{source} has {len(files)} archives, but only the splits {', '.join(archives)}; "
            "unpack each set from a folder of its own"
        )
    return archives


def _check_names(classes: Sequence[str], file: Path) -> None:
    """Names become folders."""
    for name in classes:
        if not name or name != Path(name).name or name.startswith("."):
            raise UserError(f"class {name!r} of {file} cannot be a folder: give other --classes")
    if len(set(classes)) < len(classes):
        raise UserError(f"two classes of {file} have the same name: give other --classes")
