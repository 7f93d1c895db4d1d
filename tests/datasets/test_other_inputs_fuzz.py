"""Spoilt sources of the other data sets: one sentence, or what is whole of them; never code."""

import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pytest
from PIL import Image

from halvit_mm.datasets.check import check_dataset
from halvit_mm.datasets.image_archive import unpack_images
from halvit_mm.datasets.labelled_images import LabelledImages
from halvit_mm.datasets.nuclei import prepare_nuclei
from halvit_mm.errors import UserError


class Bomb:
    """Says so when a pickle of it is read."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploded"),))


def png(width: int, height: int, *, claimed: tuple[int, int] | None = None) -> bytes:
    """A grey picture, which may claim another size than it has."""
    buffer = io.BytesIO()
    Image.new("L", (width, height), 200).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    if claimed:
        data[16:24] = struct.pack(">II", *claimed)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def spoil(data: bytes, seed: int) -> bytes:
    """Flips, cuts, inserts or doubles bytes."""
    draw = random.Random(seed)
    data = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data))
        action = draw.choice(("flip", "flip", "cut", "insert", "delete", "double"))
        if action == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif action == "cut" and draw.random() < 0.5:
            del data[max(at, 1) :]
        elif action == "insert":
            data[at:at] = bytes(draw.randrange(256) for _ in range(8))
        elif action == "delete" and len(data) > 20:
            del data[at : at + 8]
        else:
            data[at:at] = data[at : at + 20]
    return bytes(data)


# npz archives


def npy(descr: str, shape: str, rest: bytes = b"") -> bytes:
    """A file of numpy's with a header of our making."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + rest


def members(compress: int = zipfile.ZIP_STORED, **changes: bytes | None) -> bytes:
    """An archive of three images with parts exchanged or left out."""
    images = [archives.encode(i) for i in range(3)]
    parts = {}
    for name, array in archives.pack(images, [0, 1, 2]).items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        parts[name] = buffer.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as archive:
        for name, content in (parts | changes).items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Bomb()], dtype=object), allow_pickle=True)
    return out.getvalue()


def encrypted() -> bytes:
    data = bytearray(members())
    for at in range(len(data)):
        if data[at : at + 4] == b"PK\x03\x04":
            data[at + 6] |= 1
        elif data[at : at + 4] == b"PK\x01\x02":
            data[at + 8] |= 1
    return bytes(data)


def other_compression() -> bytes:
    data = bytearray(members())
    for at in range(len(data)):
        if data[at : at + 4] == b"PK\x03\x04":
            data[at + 8] = 99
        elif data[at : at + 4] == b"PK\x01\x02":
            data[at + 10] = 99
    return bytes(data)


ARCHIVES = {
    "objects": lambda: members(label=pickled()),
    "classes that are objects": lambda: members(classes=pickled()),
    "a pickle": lambda: pickle.dumps(Bomb()),
    "a claim of a terabyte": lambda: members(data=npy("'|u1'", "(1099511627776,)", b"abc")),
    "a claim beyond all memory": lambda: members(data=npy("'|u1'", "(9223372036854775807,)")),
    "a claim of an overflow": lambda: members(data=npy("'|u1'", "(4294967296, 4294967296, 16)")),
    "a negative shape": lambda: members(data=npy("'|u1'", "(-5,)", b"abcde")),
    "no shape": lambda: members(off=npy("'<i8'", "()", bytes(8))),
    "a header that is code": lambda: members(data=npy("__import__('os')", "(1,)", b"a")),
    "a deep header": lambda: members(data=npy("'|u1'", "(" * 60 + ")" * 50)),
    "offsets of floats": lambda: members(
        off=npy("'<f8'", "(4,)", np.array([0, 9, 99, 999.0]).tobytes())
    ),
    "offsets that fall": lambda: members(
        off=npy("'<i8'", "(4,)", np.array([0, 900, 5, 999]).tobytes())
    ),
    "negative offsets": lambda: members(
        off=npy("'<i8'", "(4,)", np.array([-9, 5, 9, 20]).tobytes())
    ),
    "labels that are NaN": lambda: members(
        label=npy("'<f4'", "(3,)", np.full(3, np.nan, "<f4").tobytes())
    ),
    "labels beyond": lambda: members(label=npy("'<i8'", "(3,)", np.full(3, 2**62).tobytes())),
    "no labels": lambda: members(label=None),
    "encrypted": encrypted,
    "another compression": other_compression,
    "a structured type": lambda: members(
        label=npy("[('a', '<i2'), ('b', '<i2')]", "(3,)", bytes(12))
    ),
    "classes of bytes": lambda: members(classes=npy("'|S3'", "(3,)", b"\xff\xfe\xfdbeecow")),
    "classes that lead out": lambda: members(
        classes=npy(
            "'<U8'",
            "(3,)",
            "".join(n.ljust(8, "\0") for n in ("../../x", "bee", "cow")).encode("utf-32-le"),
        )
    ),
    "classes beyond Unicode": lambda: members(classes=npy("'<U1'", "(3,)", b"\xff" * 12)),
    "classes that are surrogates": lambda: members(
        classes=npy("'<U1'", "(3,)", struct.pack("<3I", 0xDC80, 98, 99))
    ),
    "empty": lambda: b"",
    "an empty zip": lambda: b"PK\x05\x06" + bytes(18),
}


def try_archive(file: Path, data: bytes) -> str:
    """What became of an archive: ``"refused"``, or ``"loaded"`` with every image."""
    file.write_bytes(data)
    config = dict(type="LabelledImages", data_root=str(file.parent), split="train")
    try:
        check_dataset(config, option="train_dataloader.dataset")
    except UserError as error:
        assert "insects_train.npz" in str(error)
        with pytest.raises(UserError):
            LabelledImages(data_root=str(file.parent), split="train")
        with pytest.raises(UserError):
            unpack_images(file, file.parent / "out")
        assert not (file.parent / "out").exists()
        return "refused"
    loaded = LabelledImages(data_root=str(file.parent), split="train")
    for i in range(len(loaded)):
        try:
            assert loaded[i]["img"].ndim == 3
        except UserError as error:
            assert "insects_train.npz" in str(error)
    return "loaded"


@pytest.mark.parametrize("name", ARCHIVES)
def test_odd_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert try_archive(tmp_path / "insects_train.npz", ARCHIVES[name]()) == "refused"
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_spoilt_at_random(tmp_path: Path, compress: int) -> None:
    sound = members(compress)
    file = tmp_path / "insects_train.npz"
    assert try_archive(file, sound) == "loaded"
    outcomes = [try_archive(file, spoil(sound, seed)) for seed in range(60)]
    assert outcomes.count("refused") >= 30


# The nuclei


def source(changes: dict[str, bytes | None]) -> dict[str, bytes]:
    """The files of two images with a mask each, with some of them exchanged or left out."""
    files = {}
    for name in ("a", "b"):
        files[f"stage1_train/{name}/images/{name}.png"] = png(40, 40)
        files[f"stage1_train/{name}/masks/1.png"] = png(40, 40)
    return {name: data for name, data in (files | changes).items() if data is not None}


PICTURE, MASK = "stage1_train/a/images/a.png", "stage1_train/a/masks/1.png"
NUCLEI = {
    "no bytes": {PICTURE: b""},
    "another size": {MASK: png(20, 20)},
    "a claim of gigapixels": {PICTURE: png(40, 40, claimed=(60_000, 60_000))},
    "a claim of a lot": {PICTURE: png(40, 40, claimed=(13_000, 13_000))},
    "a claim of nothing": {PICTURE: png(40, 40, claimed=(0, 0))},
    "a mask claims gigapixels": {MASK: png(40, 40, claimed=(2**31 - 1, 2**31 - 1))},
    "a page": {PICTURE: b"<html>"},
    "a cut mask": {MASK: png(40, 40)[:60]},
    "a pickle": {PICTURE: pickle.dumps(Bomb())},
    "no mask": {MASK: None},
    "no picture": {PICTURE: None},
}


def as_zip(files: dict[str, bytes], compress: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def try_nuclei(source: Path, destination: Path) -> str:
    try:
        prepare_nuclei(source, destination)
    except UserError as error:
        assert str(source) in str(error)
        assert not destination.exists()
        return "refused"
    content = json.loads((destination / "annotations" / "instances_train.json").read_text())
    assert content["annotations"]
    return "made"


@pytest.mark.parametrize("name", NUCLEI)
@pytest.mark.parametrize("packed", [False, True])
def test_odd_nuclei(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, packed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    files = source(NUCLEI[name])
    if packed:
        (tmp_path / "source.zip").write_bytes(as_zip(files))
    else:
        for file, data in files.items():
            (tmp_path / "source" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / file).write_bytes(data)
    found = tmp_path / ("source.zip" if packed else "source")
    assert try_nuclei(found, tmp_path / "out") == "refused"
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("compress", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_nuclei_spoilt_at_random(tmp_path: Path, compress: int) -> None:
    sound = as_zip(source({}), compress)
    outcomes = []
    for seed in range(60):
        (tmp_path / "source.zip").write_bytes(spoil(sound, seed))
        outcomes.append(try_nuclei(tmp_path / "source.zip", tmp_path / f"out{seed}"))
    assert outcomes.count("refused") >= 30


def test_odd_zip_files_of_nuclei(tmp_path: Path) -> None:
    for name, spoilt in {"encrypted": (6, 8, 1), "another compression": (8, 10, 99)}.items():
        data = bytearray(as_zip(source({})))
        for at in range(len(data)):
            if data[at : at + 4] == b"PK\x03\x04":
                data[at + spoilt[0]] = spoilt[2]
            elif data[at : at + 4] == b"PK\x01\x02":
                data[at + spoilt[1]] = spoilt[2]
        (tmp_path / f"{name}.zip").write_bytes(data)
        assert try_nuclei(tmp_path / f"{name}.zip", tmp_path / "out") == "refused"


# Folders of images


def make_folders(folder: Path) -> dict:
    for name in ("ant", "bee"):
        (folder / "train" / name).mkdir(parents=True)
        (folder / "train" / name / "0.png").write_bytes(png(8, 8))
    return dict(type="CustomDataset", data_root=str(folder), data_prefix="train")


FOLDERS: dict[str, Callable[[Path], object]] = {
    "no bytes": lambda f: (f / "train/ant/0.png").write_bytes(b""),
    "a cut image": lambda f: (f / "train/ant/0.png").write_bytes(png(8, 8)[:40]),
    "gigapixels": lambda f: (f / "train/ant/0.png").write_bytes(
        png(8, 8, claimed=(2**31 - 1,) * 2)
    ),
    "a link to nowhere": lambda f: (f / "train/ant/1.png").symlink_to(f / "gone.png"),
    "a list in Latin-1": lambda f: (f / "list.txt").write_bytes("ant/é.png 0\n".encode("latin-1")),
    "a list with NUL": lambda f: (f / "list.txt").write_bytes(b"ant/0.png\0 0\n"),
    "a list in UTF-16": lambda f: (f / "list.txt").write_bytes("ant/0.png 0\n".encode("utf-16")),
    "a label of many digits": lambda f: (f / "list.txt").write_text(f"ant/0.png {'9' * 5000}\n"),
    "a label with a fraction": lambda f: (f / "list.txt").write_text("ant/0.png 0.5\n"),
    "blank lines": lambda f: (f / "list.txt").write_text("\n\n"),
    "a name of many letters": lambda f: (f / "list.txt").write_text(f"{'x' * 5000} 0\n"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_odd_folders(tmp_path: Path, name: str) -> None:
    config = make_folders(tmp_path)
    check_dataset(config, option="train_dataloader.dataset", num_classes=2)
    FOLDERS[name](tmp_path)
    if (tmp_path / "list.txt").exists():
        config["ann_file"] = "list.txt"
    with pytest.raises(UserError, match=str(tmp_path)):
        check_dataset(config, option="train_dataloader.dataset", num_classes=2)


def test_names_of_classes_in_another_encoding(tmp_path: Path) -> None:
    make_folders(tmp_path)
    (tmp_path / "words.txt").write_bytes("ant\tForm\xedca\n".encode("latin-1"))
    config = dict(type="LabelledImages", data_root=str(tmp_path), split="train")
    with pytest.raises(UserError, match=r"words\.txt is not .*UTF-8"):
        check_dataset(config, option="train_dataloader.dataset")
    (tmp_path / "names.txt").write_bytes("Form\xedca\n".encode("latin-1"))
    config = make_folders(tmp_path / "other") | {"classes": str(tmp_path / "names.txt")}
    with pytest.raises(UserError, match=r"names\.txt is not .*UTF-8"):
        check_dataset(config, option="train_dataloader.dataset")
