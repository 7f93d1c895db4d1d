"""Checkpoints of an attacker's: pickles that run code, and small files that unfold to much."""

import builtins
import codecs
import importlib
import operator
import os
import pickle
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmengine
import numpy as np
import torch
from mutated_files import REFUSED, Mutation, bytes_of, rezipped, saved


def with_pickle(data: bytes) -> bytes:
    """A torch file with a pickle of one's own in it."""
    return rezipped(
        saved({"a": torch.ones(4)}),
        lambda name, old: data if name.endswith("data.pkl") else old,
    )


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def code(canary: Path) -> Iterator[Mutation]:
    """Pickles that run code, which would make the file ``canary``."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w').close()"
    calls = {
        "os.system": Calls(os.system, touch),
        "os.popen": Calls(os.popen, touch),
        "os.mkdir": Calls(os.mkdir, str(canary)),
        "eval": Calls(eval, python),
        "exec": Calls(exec, python),
        "open": Calls(open, str(canary), "w"),
        "import": Calls(builtins.__import__, "this"),
        "import_module": Calls(importlib.import_module, "antigravity"),
        "getattr of a module": Calls(getattr, Calls(importlib.import_module, "os"), "system"),
        "getattr of a history": Calls(getattr, mmengine.logging.HistoryBuffer, "__init__"),
        "Popen": Calls(subprocess.Popen, ["touch", str(canary)]),
        "check_output": Calls(subprocess.check_output, ["touch", str(canary)]),
        "codecs.open": Calls(codecs.open, str(canary), "w"),
        "copyfile": Calls(shutil.copyfile, __file__, str(canary)),
        "attrgetter": Calls(operator.attrgetter, "system"),
        "torch.load": Calls(torch.load, str(canary)),
        "torch.save": Calls(torch.save, [1], str(canary)),
        "torch.hub.load": Calls(torch.hub.load, "a/b", "c"),
        "torch.hub.download": Calls(
            torch.hub.download_url_to_file, "http://127.0.0.1:9", str(canary)
        ),
        "torch.jit.load": Calls(torch.jit.load, str(canary)),
        "from_file": Calls(torch.from_file, str(canary), True, 8),
        "storage from_file": Calls(torch.UntypedStorage.from_file, str(canary), True, 8),
        "np.load": Calls(np.load, str(canary)),
        "np.save": Calls(np.save, str(canary), 1),
        "fromfile": Calls(np.fromfile, __file__),
        "mmengine.dump": Calls(mmengine.dump, [1], str(canary) + ".json"),
        "mmengine config": Calls(mmengine.Config.fromfile, str(canary)),
        "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, touch))),
        "nested torch file": Calls(
            torch.storage._load_from_bytes, saved(Calls(os.system, touch), legacy=True)
        ),
        "a class of ours": Mutation(name="x", outcome=REFUSED, write=print),
    }
    weights = {"a": torch.ones(4)}
    for name, call in calls.items():
        for place in ("state_dict", "meta", "optimizer"):
            content = {"state_dict": dict(weights), "meta": {}, "optimizer": {}}
            content[place]["x"] = call
            try:
                yield bytes_of(f"{name} in {place}", REFUSED, saved(content))
                if place == "meta":
                    yield bytes_of(f"{name}, legacy", REFUSED, saved(content, legacy=True))
            except (pickle.PicklingError, TypeError, AttributeError):
                pass  # Python itself cannot pickle it
    command = touch.encode()
    text = b"V" + command + b"\n"
    binary = b"X" + struct.pack("<I", len(command)) + command
    short = b"\x8c" + bytes([min(len(command), 255)]) + command[:255]
    raw = {
        "REDUCE": b"\x80\x02cposix\nsystem\n" + binary + b"\x85R.",
        "of protocol 0": b"cposix\nsystem\n(" + text + b"tR.",
        "INST": b"\x80\x02(" + binary + b"iposix\nsystem\n.",
        "OBJ": b"\x80\x02(cposix\nsystem\n" + binary + b"o.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + binary + b"\x85\x81.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + short + b"\x85R.",
        "Python 2's name": b"\x80\x02c__builtin__\neval\n" + binary + b"\x85R.",
        "os by another name": b"\x80\x02cnt\nsystem\n" + binary + b"\x85R.",
        "a dotted name": b"\x80\x02ccollections\nOrderedDict.fromkeys\n" + binary + b"\x85R.",
        "a name in torch": b"\x80\x02ctorch\nos.system\n" + binary + b"\x85R.",
        "a module of torch's": b"\x80\x02ctorch.serialization\nos\n.",
        "persistent id": b"\x80\x02" + binary + b"Q.",
        "persistent text": b"\x80\x02P" + command + b"\n.",
        "persistent module": b"\x80\x02(X\x06\x00\x00\x00module" + binary + b"tQ.",
        "extension": b"\x80\x02\x82\x01.",
        "BUILD of a class": b"\x80\x02ccollections\nOrderedDict\n}X\x04\x00\x00\x00copy"
        + binary
        + b"sb.",
        "BUILD of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}"
        + binary
        + b"K\x01sb.",
        "BUILD that calls": b"\x80\x02cnumpy\ndtype\n" + binary + b"\x85Rb.",
        "objects in an array": b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.",
    }
    for name, data in raw.items():
        yield bytes_of(f"{name} in a zip file", REFUSED, with_pickle(data))
        header = saved({"a": 1}, legacy=True)
        start = header.index(b"\x80\x02}")
        start = header.index(b"\x80\x02}", start + 1)  # behind the facts about the machine
        yield bytes_of(f"{name}, legacy", REFUSED, header[:start] + data)
        yield bytes_of(f"{name}, bare", REFUSED, data)


def oversized() -> Iterator[Mutation]:
    """Small files that claim or unfold to much."""
    one = b"K\x01"

    def tensor(
        size: bytes, stride: bytes, offset: bytes = b"K\x00", numel: bytes = b"K\x04"
    ) -> bytes:
        storage = (
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        )
        return (
            b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n("
            + storage
            + numel
            + b"tQ"
            + offset
            + size
            + b"\x85"
            + stride
            + b"\x85\x89}tRs."
        )

    def number(value: int) -> bytes:
        data = pickle.encode_long(value)
        return b"\x8a" + bytes([len(data)]) + data

    numbers = (-1, -(2**40), 5, 10**6, 10**12, 2**62, 2**63, 2**64, 10**300)
    for value in numbers:
        yield bytes_of(f"size {value:g}", REFUSED, with_pickle(tensor(number(value), one)))
        yield bytes_of(
            f"storage of {value:g}",
            REFUSED,
            with_pickle(tensor(b"K\x04", one, numel=number(value))),
        )
        yield bytes_of(
            f"offset {value:g}", REFUSED, with_pickle(tensor(b"K\x04", one, number(value)))
        )
    for value in (-1, -4, 2, 10**12, 2**63):
        yield bytes_of(f"stride {value:g}", REFUSED, with_pickle(tensor(b"K\x04", number(value))))
    yield bytes_of("10¹² times one number", REFUSED, with_pickle(tensor(number(10**12), b"K\x00")))

    def raw(name: str, operations: bytes) -> Mutation:
        return bytes_of(name, REFUSED, with_pickle(b"\x80\x02" + operations + b"."))

    laughs: Any = ["ha"]
    for _ in range(40):
        laughs = [laughs] * 10
    weights = {"a": torch.ones(4)}
    yield bytes_of("billion laughs", REFUSED, saved({"state_dict": weights, "x": laughs}))
    yield bytes_of("and in meta", REFUSED, saved({"state_dict": weights, "meta": {"cfg": laughs}}))
    yield raw("contains itself", b"}q\x00X\x01\x00\x00\x00ah\x00s")
    for depth in (500, 100_000):
        yield raw(
            f"{depth} lists in each other",
            b"}X\x01\x00\x00\x00a" + b"]" * depth + b"a" * (depth - 1) + b"s",
        )
    yield raw("memo", b"}r\xff\xff\xff\xffX\x01\x00\x00\x00aK\x01s")
    yield raw("text of 4 GB", b"X\xff\xff\xff\xffa")
    yield raw("bytes", b"}X\x01\x00\x00\x00ac__builtin__\nbytearray\n" + number(10**13) + b"\x85Rs")
    yield raw(
        "a tensor of that size",
        b"}X\x01\x00\x00\x00actorch\nFloatTensor\n" + number(10**13) + b"\x85Rs",
    )
    hexed = (
        b"}X\x01\x00\x00\x00a"
        + b"c_codecs\nencode\n" * 60
        + b"c_codecs\nencode\nX\x10\x00\x00\x00"
        + b"a" * 16
    )
    hexed += b"X\x06\x00\x00\x00latin1\x86R" + b"X\x03\x00\x00\x00hex\x86R" * 60 + b"s"
    yield raw("hex of hex of hex", hexed)
    yield raw(
        "hex by another name", hexed.replace(b"X\x03\x00\x00\x00hex", b"X\x09\x00\x00\x00HEX-codec")
    )
    yield raw(
        "numbers of numpy's",
        b"}X\x01\x00\x00\x00acnumpy\ndtype\nX\x0b\x00\x00\x00U1000000000\x85Rs",
    )
    shared = torch.ones(100_000)
    names = {f"w{i}": shared for i in range(20_000)}
    yield bytes_of("one tensor under 20,000 names", REFUSED, saved(names))
    yield bytes_of("expanded", REFUSED, saved({"a": torch.ones(1).expand(10**11)}))
