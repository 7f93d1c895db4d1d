"""Archives of tiny images, for tests."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cow")
LABELS = dict(train=[2, 0, 0, 2, 0], test=[0, 1])


def pixels(number: int) -> np.ndarray:
    """A picture of noise that no other number gives: (8, 9, 3), R, G, B."""
    return np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)


def encode(number: int, kind: str = "jpeg") -> bytes:
    """:func:`pixels` as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, kind)
    return buffer.getvalue()


def pack(images: Sequence[bytes], labels: Sequence[int]) -> dict[str, np.ndarray]:
    """The arrays of an archive."""
    return dict(
        data=np.frombuffer(b"".join(images), np.uint8),
        off=np.cumsum([0, *map(len, images)]),
        label=np.array(labels, dtype=np.int16),
        classes=np.array(CLASSES),
    )


def make_archives(folder: Path, kind: str = "jpeg") -> Path:
    """Writes the archives of two splits; image i of a split is ``encode(i)``."""
    folder.mkdir(parents=True)
    for split, labels in LABELS.items():
        images = [encode(i, kind) for i in range(len(labels))]
        np.savez(folder / f"insects_{split}.npz", **pack(images, labels))
    return folder


def replace(file: Path, **arrays: object) -> None:
    """Changes arrays of an archive; None removes one."""
    content = dict(np.load(file)) | arrays
    np.savez_compressed(file, **{k: v for k, v in content.items() if v is not None})
