"""npz archives of encoded images with a class each: reading, checking and unpacking them.

An archive is a file ``<name>_<split>.npz`` with the arrays ``data`` (bytes of all images, one after
the other, uint8), ``off`` (where each image begins and, at last, where the last one ends),
``label`` (each image's class, from 0), ``classes`` (the names of the classes, as folders have them)
and, where people read other names, ``names``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import staged_folder
from .check_images import find_fault
from .check_paths import is_text
from .image_folders import WORDS, check_other_names

_KEYS = ("data", "off", "label")
_EXTENSIONS = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}  # by how an image begins


def unpack_images(
    source: str | Path, destination: str | Path, *, classes: Sequence[str] | None = None
) -> dict[str, int]:
    """Writes the images of archives to ``destination/<split>/<class>/00000.jpg`` and so on.

    This is how mmpretrain's ``CustomDataset`` wants them; it numbers the classes in alphabetical
    order of their folders. The bytes of an image stay as they are. Images of a class are numbered
    in the order of the archive. Names that people read go to ``destination/words.txt``.

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
            if archive.names != archive.classes:
                lines = map("\t".join, zip(archive.classes, archive.names, strict=True))
                (folder / WORDS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return counts


@dataclass(frozen=True, eq=False)
class ImageArchive:
    """The images of one archive, checked: the arrays agree with each other, the images are whole.

    Attributes:
        file: Where it was read from.
        data: Bytes of all N images, one after the other, uint8.
        off: (N + 1), where each image begins and, at last, where the last one ends.
        label: (N), each image's class.
        classes: Names of the classes, as folders have them.
        names: Names of the classes, as people read them.
    """

    file: Path
    data: np.ndarray
    off: np.ndarray
    label: np.ndarray
    classes: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def read(cls, file: Path, classes: Sequence[str] | None = None) -> "ImageArchive":
        """Reads an archive and checks it.

        Args:
            file: The archive.
            classes: Names of the classes in the order of their numbers, instead of the archive's.

        Raises:
            UserError: The file is cut off, is no archive of images, contradicts itself or
                ``classes``, or an image of it cannot be read.
        """
        arrays = _load(file, (*_KEYS, "classes", "names"))
        missing = [key for key in _KEYS if key not in arrays]
        if missing:
            raise UserError(f"{file} lacks {', '.join(missing)}: this is no archive of images")
        own = _strings(arrays.get("classes"), file)
        if classes is None:
            if own is None:
                raise UserError(
                    f"{file} names no classes: give their names (--classes or metainfo.classes)"
                )
            classes = own
        elif own is not None:
            check_other_names(classes, own, file)
        classes = tuple(classes)
        _check_names(classes, file)
        names = _strings(arrays.get("names"), file) or classes

        data, off, label = (arrays[key] for key in _KEYS)
        kinds = (data.dtype == np.uint8, off.dtype.kind in "iu", label.dtype.kind in "iu")
        if not all(kinds) or {data.ndim, off.ndim, label.ndim} != {1}:
            raise UserError(
                f"{file}: `data` must be a row of bytes, `off` and `label` rows of whole numbers: "
                "this is no archive of images"
            )
        off = off.astype(np.int64)
        ends = (0, len(data)) if len(off) == 0 else (off[0], off[-1])
        if len(off) != len(label) + 1 or ends != (0, len(data)) or any(np.diff(off) < 1):
            raise UserError(
                f"{file} contradicts itself: `off` must rise from 0 to the length of `data` in as "
                "many steps as there are labels; fetch it anew"
            )
        if len(label) == 0:
            raise UserError(f"{file} has no images: fetch it anew")
        if label.min() < 0 or label.max() >= len(classes):
            raise UserError(
                f"{file} has labels from {label.min()} to {label.max()}, but there are "
                f"{len(classes)} classes, numbered from 0: give the name of each class or fetch "
                "the archive anew"
            )
        if len(names) != len(classes):
            raise UserError(
                f"{file} contradicts itself: {len(classes)} classes have {len(names)} `names`; "
                "fetch it anew"
            )
        archive = cls(file, data, off, label, classes, names)
        archive._check_images()
        return archive

    def _check_images(self) -> None:
        for number in range(len(self)):
            fault = find_fault(self.image(number).tobytes())
            if fault is not None:
                raise UserError(
                    f"image {number} of {self.file} cannot be read ({fault}): fetch the archive "
                    "anew"
                )

    def __deepcopy__(self, memo: dict) -> "ImageArchive":
        return self  # nothing changes it, so that subsets of a data set can share it

    def __len__(self) -> int:
        return len(self.label)

    def image(self, number: int) -> np.ndarray:
        """The bytes of an encoded image, uint8; a view of :attr:`data`."""
        return self.data[self.off[number] : self.off[number + 1]]

    def write(self, folder: Path) -> int:
        """Writes the images below ``folder``, a folder a class, and returns how many there are.

        Raises:
            UserError: An image is neither JPEG nor PNG.
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
        for start, extension in _EXTENSIONS.items():
            if image.startswith(start):
                return extension
        raise UserError(
            f"image {number} of {self.file} is neither JPEG nor PNG: fetch the archive anew"
        )


def read_classes(file: Path) -> tuple[str, ...] | None:
    """The names of an archive's classes, without reading its images; None if it has none.

    Raises:
        UserError: The file is no whole npz archive.
    """
    return _strings(_load(file, ("classes",)).get("classes"), file)


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


def _load(file: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of an archive's arrays that it has."""
    try:
        with np.load(file, allow_pickle=False) as content:
            return {key: content[key] for key in keys if key in content}
    except Exception as error:  # numpy and zipfile let through whatever they stumble over
        raise UserError(f"{file} is not a whole npz archive ({error}); fetch it anew") from error


def _strings(array: np.ndarray | None, file: Path) -> tuple[str, ...] | None:
    if array is None:
        return None
    try:
        names = tuple(str(name) for name in array.ravel())
    except Exception:  # numpy lets through what it stumbles over: numbers that no letter has
        names = ()
    if array.dtype.kind != "U" or not names or not all(map(is_text, names)):
        raise UserError(f"{file} has names of classes that are no text: fetch it anew")
    return names


def _check_names(classes: Sequence[str], file: Path) -> None:
    """Names become folders."""
    for name in classes:
        if not name or name != Path(name).name or name.startswith("."):
            raise UserError(f"class {name!r} of {file} cannot be a folder: give other --classes")
    if len(set(classes)) < len(classes):
        raise UserError(f"two classes of {file} have the same name: give other --classes")
