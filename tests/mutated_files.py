"""Checkpoints that are damaged or wrong, and what watches over loading them."""

import io
import os
import pickle
import random
import resource
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

Weights = dict[str, torch.Tensor]

#: What must come of a file: an error; an error or the very weights that were changed; or an error
#: or any weights that are ordinary, where a format has no checksum.
REFUSED, WHOLE, ORDINARY = "refused", "whole", "ordinary"


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A file that is not as it should be.

    Attributes:
        name: What was done to it.
        outcome: What must come of it.
        write: Makes it at a path.
    """

    name: str
    outcome: str
    write: Callable[[Path], Any]


@contextmanager
def watched(*, seconds: int = 60, megabytes: int = 1500) -> Iterator[None]:
    """Fails where loading takes too long, or would take more memory than that."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))

    def stop(*_: Any) -> None:
        raise BaseException(f"not done in {seconds} s")

    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails where this takes longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"{took:.1f} s"


def saved(content: Any, *, legacy: bool = False) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def rezipped(content: bytes, change: Callable[[str, bytes], bytes | None], **options: Any) -> bytes:
    """A zip file with other members, checksums included; None leaves a member out."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(buffer, "w", **options) as new,
    ):
        for name in old.namelist():
            if (data := change(name, old.read(name))) is not None:
                new.writestr(name, data)
    return buffer.getvalue()


def truncated(content: bytes, count: int, name: str, outcome: str) -> Iterator[Mutation]:
    """Cut off at places all over the file, the last bytes among them."""
    ends = {*range(len(content) - count // 4, len(content))}
    ends |= {len(content) * i // count for i in range(count)}
    for end in [1, 2, 4, 7, *sorted(ends)[-count:]]:
        yield bytes_of(f"{name} cut off at {end}", outcome, content[:end])


def flipped(
    content: bytes, count: int, name: str, outcome: str, *, start: int = 0, end: int | None = None
) -> Iterator[Mutation]:
    """One to three bits changed, anywhere from ``start`` to ``end``."""
    rng = random.Random(f"{name} {len(content)}")
    for _ in range(count):
        changed = bytearray(content)
        places = [rng.randrange(start, end or len(content)) for _ in range(rng.randint(1, 3))]
        for place in places:
            changed[place] ^= 1 << rng.randrange(8)
        yield bytes_of(f"{name} flipped at {places}", outcome, bytes(changed))


def bytes_of(name: str, outcome: str, content: bytes) -> Mutation:
    return Mutation(name=name, outcome=outcome, write=lambda path: path.write_bytes(content))


def damaged(weights: Weights, *, many: bool = True) -> Iterator[Mutation]:
    """Files that lost or changed bytes on their way."""
    share = 1 if many else 4
    zipped = saved({"state_dict": weights, "meta": {"epoch": 3}})
    legacy = saved({"state_dict": weights}, legacy=True)
    tensors = save_tensors(weights)
    header = 8 + int.from_bytes(tensors[:8], "little")
    pickled = legacy.index(b"_rebuild_tensor_v2")
    yield from truncated(zipped, 48 // share, "zip", REFUSED)
    yield from truncated(legacy, 24 // share, "legacy", REFUSED)
    yield from truncated(tensors, 24 // share, "safetensors", REFUSED)
    yield from flipped(zipped, 120 // share, "zip", WHOLE)
    yield from flipped(zipped, 24 // share, "zip directory", WHOLE, start=zipped.rindex(b"PK\x01"))
    yield from flipped(legacy, 40 // share, "legacy pickle", ORDINARY, end=2 * pickled)
    yield from flipped(tensors, 40 // share, "safetensors header", ORDINARY, end=header)
    for size in (0, 1, header - 8 - 1, header - 8 + 1, 10**7, 10**9, 2**63):
        changed = size.to_bytes(8, "little") + tensors[8:]
        yield bytes_of(f"safetensors header of {size} bytes", REFUSED, changed)


def rebuilt(weights: Weights) -> Iterator[Mutation]:
    """Zip files that are not as torch writes them."""
    whole = saved({"state_dict": weights})

    def zipped(name: str, outcome: str, change: Callable, **options: Any) -> Mutation:
        return bytes_of(name, outcome, rezipped(whole, change, **options))

    def only(end: str, data: bytes | None) -> Callable:
        return lambda name, old: data if name.endswith(end) else old

    yield zipped("compressed", REFUSED, lambda name, old: old, compression=zipfile.ZIP_DEFLATED)
    for end in ("data.pkl", "data/0", "data/3"):
        yield zipped(f"without {end}", REFUSED, only(end, None))
        yield zipped(f"empty {end}", REFUSED, only(end, b""))
        yield zipped(
            f"half of {end}", REFUSED, lambda n, o, e=end: o[: len(o) // 2] if n.endswith(e) else o
        )
    yield zipped(
        "longer data/0", REFUSED, lambda n, o: o + bytes(64) if n.endswith("data/0") else o
    )
    yield zipped("wrong byte order", REFUSED, only("byteorder", b"middle"))
    yield zipped("wrong alignment", WHOLE, only(".storage_alignment", b"-7"))
    yield zipped("wrong version", REFUSED, only("version", b"99999"))
    yield bytes_of("TorchScript", REFUSED, _added(whole, "constants.pkl", b"\x80\x02)."))
    yield bytes_of("twice the same member", REFUSED, _added(whole, "data/0", None))
    yield bytes_of("a second folder", REFUSED, _added(whole, "/other/data.pkl", b"x"))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(300_000_000))
    yield bytes_of("zip bomb", REFUSED, bomb.getvalue())
    for field, offset in (("size", 24), ("compressed size", 20), ("place", 42), ("method", 10)):
        for value in (2**32 - 2, 2**31 + 8, 12):
            changed = bytearray(whole)
            entry = whole.index(b"PK\x01\x02")
            width = 2 if field == "method" else 4
            changed[entry + offset : entry + offset + width] = value.to_bytes(4, "little")[:width]
            yield bytes_of(f"{field} of a member: {value}", REFUSED, bytes(changed))


def _added(content: bytes, name: str, data: bytes | None) -> bytes:
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        full = name[1:] if name.startswith("/") else f"{folder}/{name}"
        archive.writestr(full, archive.read(full) if data is None else data)
    return buffer.getvalue()


def no_files() -> Iterator[Mutation]:
    """What is at the path is no checkpoint at all."""
    makers = {
        "nothing": lambda path: None,
        "a folder": lambda path: path.mkdir(),
        "a pipe": lambda path: os.mkfifo(path),
        "endless zeros": lambda path: path.symlink_to("/dev/zero"),
        "a terminal": lambda path: path.symlink_to("/dev/tty"),
        "the memory": lambda path: path.symlink_to("/proc/self/mem"),
        "a dead link": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to(path.name),
    }
    for name, make in makers.items():
        yield Mutation(name=name, outcome=REFUSED, write=make)
    contents = {
        "an empty file": b"",
        "a page": b"<html>404: not found</html>",
        "text": "Gewichte für Ünicode".encode() * 100,
        "zeros": bytes(100_000),
        "a tar file": b"data.tar" + bytes(505),
        "an old tar file": b"pickle" + bytes(251) + b"ustar\0" + bytes(10_000),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "gzip": b"\x1f\x8b\x08" + bytes(100),
        "an empty zip": b"PK\x05\x06" + bytes(18),
        "random": random.Random(0).randbytes(10_000),
        "a random pickle": b"\x80\x02" + random.Random(1).randbytes(10_000),
        "a plain pickle": pickle.dumps({"state_dict": {"a": [1.0]}}),
        "an archive of arrays": b"PK\x03\x04" + bytes(1000),
    }
    for name, content in contents.items():
        yield bytes_of(name, REFUSED, content)
