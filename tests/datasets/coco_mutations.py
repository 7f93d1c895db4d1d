"""Ways to spoil a file in COCO's format: by what it says, by how it is written, at random."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from coco_oracle import pack, sound_content

NAN, INF = float("nan"), float("inf")
NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": (
        *("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"),
        "ignore",
    ),
}
#: What may stand in the place of anything else.
ODD = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        1.0,
        1.5,
        0.0,
        -0.5,
        NAN,
        INF,
        -INF,
        1e308,
        10**30,
        -(10**400),
    ),
    *("", "1", "x", "\u0000", "\udcff", "naïve", [], {}, [[]], [1], [[1, 2, 3]], {"a": 1}, [None]),
)
BOXES = {
    "negative size": ([10, 10, -5, 10], [10, 10, 5, -0.001]),
    "no size": ([10, 10, 0, 10], [10, 10, 5, 0.5], [10, 10, 0.99, 0.99], [100, 100, 0, 0]),
    "box outside": ([100, 5, 5, 5], [5, 64, 10, 10], [-20, 5, 20, 10], [-1e5, -1e5, 10, 10]),
    "box beyond": ([-5, 5, 20, 10], [20, 20, 900, 900], [-999, -999, 9999, 9999]),
    "absurd number": ([10, 10, 1e308, 1e308], [10**30, 1, 5, 5], [-1e7, 0, 5, 5]),
    "not finite": ([NAN, 10, 5, 5], [10, 10, INF, 5], [10, -INF, 5, 5], [NAN] * 4),
    "wrong type": ([1, 2, 3], [1, 2, 3, 4, 5], ["1", 2, 3, 4], [True, 1, 5, 5], [[1, 2, 3, 4]]),
}
POLYGONS = {
    "no mask": ([], {}, None),
    "short polygon": ([[]], [[1, 2]], [[1, 2, 9, 9]], [[1, 2, 3, 9, 9]], [[1, 1, 9, 1, 9, 9, 4]]),
    "polygon outside": ([[100, 5, 120, 5, 120, 20]], [[-9, -9, -1, -9, -1, -1]]),
    "polygon beyond": ([[-20, -20, 30, 5, 30, 30]], [[5, 5, 900, 5, 900, 900, 5, 30]]),
    "crossing polygon": (
        [[5, 5, 25, 25, 25, 5, 5, 25]],
        [[5, 5, 25, 5, 25, 25, 5, 25, 5, 5, 25, 5, 25, 25, 5, 25]],  # twice round
        [[5, 5, 25, 5, 8, 20, 15, 1, 22, 20]],
    ),
    "absurd number": (
        [[5, 5, 1e8, 5, 25, 25]],
        [[5, 5, 1e308, 5, 25, 25]],
        [[5, 5, 10**30, 5, 25, 25]],
        [[-(10**400), 5, 20, 5, 25, 25]],
        [[0, 0, 9e5, 9e5] * 9],
    ),
    "not finite": ([[5, 5, NAN, 5, 25, 25]], [[5, 5, 25, 5, 25, 25], [INF, 5, 9, 9, 1, 1]]),
    "wrong type": (
        [5, 5, 25, 5, 25, 25],
        [["5", 5, 25, 5, 25, 25]],
        [[True, 5, 25, 5, 25, 25]],
        [[[5, 5], [25, 5], [25, 25]]],
        "polygon",
        7,
    ),
    None: (
        [[5, 5, 25, 5, 25, 25], [1, 1, 9, 1, 9, 9]],
        [[5, 5, 25, 5, 25, 25], [100, 100, 120, 100, 120, 120]],
        [[5, 5, 5, 5, 25, 5, 25, 25, 25, 25]],
    ),
}
SHORT_BESIDE = ([[5, 5, 25, 5, 25, 25], [1, 2, 9, 9]], [[1, 2, 9, 9], [5, 5, 25, 5, 25, 25]])
RLES = {
    "RLE size": (
        dict(size=[40, 60], counts=pack([100, 50, 2250])),
        dict(size=[10**5, 10**5], counts=pack([100, 50, 2350])),
        dict(size=[-50, -50], counts=pack([100, 50, 2350])),
        dict(size=[50.0, 50.0], counts=pack([100, 50, 2350])),
        dict(size=["50", "50"], counts=pack([100, 50, 2350])),
        dict(size=[50], counts=pack([100, 50, 2350])),
        dict(size=None, counts=pack([100, 50, 2350])),
        dict(counts=pack([100, 50, 2350])),
        {"a": 1},
    ),
    "RLE counts": (
        dict(size=[50, 50], counts="~~~~ garbage"),
        dict(size=[50, 50], counts=pack([100, 50, 2350])[:-1] + "o"),
        dict(size=[50, 50], counts="o" * 50),
        dict(size=[50, 50], counts="oooooooooo0" * 3),
        dict(size=[50, 50], counts=""),
        dict(size=[50, 50], counts=pack([100, 50])),
        dict(size=[50, 50], counts=pack([100, 50, 2350, 1])),
        dict(size=[50, 50], counts=pack([100, -50, 2450])),
        dict(size=[50, 50], counts=pack([100, 50, 2350]) + "\u0000"),
        dict(size=[50, 50], counts="é" * 9),
        dict(size=[50, 50], counts="\udcff" * 9),
        dict(size=[50, 50], counts=[100, 50]),
        dict(size=[50, 50], counts=[100, 50, 2351]),
        dict(size=[50, 50], counts=[100, -50, 2450]),
        dict(size=[50, 50], counts=[100, 50, 2**32 + 2350]),
        dict(size=[50, 50], counts=[100, 50, 10**30]),
        dict(size=[50, 50], counts=[100.0, 50.0, 2350.0]),
        dict(size=[50, 50], counts=[100, 50, "2350"]),
        dict(size=[50, 50], counts=[100, 50, NAN]),
        dict(size=[50, 50], counts=[]),
        dict(size=[50, 50], counts=None),
        dict(size=[50, 50], counts=7),
        dict(size=[50, 50]),
    ),
    "empty RLE": (
        dict(size=[50, 50], counts=pack([2500])),
        dict(size=[50, 50], counts=[2500]),
        dict(size=[50, 50], counts=[2500, 0]),
    ),
    None: (
        dict(size=[50, 50], counts=pack([0, 2500])),
        dict(size=[50, 50], counts=pack([100, 50, 2350, 0])),
        dict(size=[50, 50], counts=[0, 0, 100, 50, 2350]),
        dict(size=[50, 50], counts=pack([1] * 2500)),
    ),
}
FILE_NAMES = {
    "not text": ("", "  ", "\u0000", "one\u0000.jpg", "\udcff.jpg", "\ud800"),
    "missing image": ("gone.jpg", "images/one.jpg", "a/" * 2000, "naïve — ✓.jpg"),
    "outside the folder": ("../images/one.jpg", "./../images/one.jpg", "../../etc/passwd", "/one"),
    "broken image": (".", "x" * 5000),
    "other size": ("two.png",),
    "similar file names": ("TWO.png",),
    "repeated file name": ("two.png",),
}


@dataclass(frozen=True)
class Mutation:
    """A spoilt file.

    Attributes:
        name: What was done.
        data: The file's bytes.
        kind: The fault that must be found, if it is known.
    """

    name: str
    data: bytes
    kind: str | None = None


def structured() -> Iterator[Mutation]:
    """One thing changed in what the file says."""
    for part, keys in NEEDED.items():
        for key in keys:
            if key != "ignore":
                yield changed(f"{part} without {key}", lambda c, p=part, k=key: c[p][1].pop(k))
            for odd in ODD:
                yield changed(f"{part}.{key} = {odd!r:.40}", _set(part, 1, key, odd))
        for odd in ODD:
            yield changed(f"{part} = {odd!r:.40}", lambda c, p=part, o=odd: c.update({p: o}))
            yield changed(f"{part}[1] = {odd!r:.40}", lambda c, p=part, o=odd: _put(c[p], o))
    for kind, boxes in BOXES.items():
        for box in boxes:
            yield changed(f"bbox = {box!r:.60}", _set("annotations", 0, "bbox", box), kind)
    for kind, masks in POLYGONS.items():
        for mask in masks:
            yield changed(
                f"polygon {mask!r:.60}", _set("annotations", 0, "segmentation", mask), kind
            )
    for mask in SHORT_BESIDE:
        change = _set("annotations", 0, "segmentation", mask)
        yield changed(f"polygons {mask!r:.60}", change, "short polygon")
    for kind, masks in RLES.items():
        for mask in masks:
            yield changed(f"RLE {mask!r:.60}", _set("annotations", 3, "segmentation", mask), kind)
    for kind, names in FILE_NAMES.items():
        for name in names:
            yield changed(f"file {name!r:.40}", _set("images", 0, "file_name", name), kind)
    for kind, width, height in (
        ("image size", 0, 40),
        ("image size", 60, -40),
        ("absurd number", 10**5, 10**5),
        ("absurd number", 60, 2 * 10**6),
        ("other size", 40, 60),
        ("other size", 6000, 4000),
    ):
        change = lambda c, w=width, h=height: c["images"][0].update(width=w, height=h)  # noqa: E731
        yield changed(f"{width} × {height} pixels", change, kind)
    for kind, part, key, value in (
        ("repeated image id", "images", "id", 2),
        ("repeated annotation id", "annotations", "id", 5),
        ("repeated category id", "categories", "id", 2),
        ("repeated category name", "categories", "name", "dog"),
        ("id 0", "annotations", "id", 0),
        ("unknown image", "annotations", "image_id", 99),
        ("unknown image", "annotations", "image_id", -1),
        ("unknown category", "annotations", "category_id", 3),
        ("unknown category", "annotations", "category_id", 0),
        ("absurd number", "annotations", "id", 2**63),
        ("absurd number", "annotations", "image_id", 10**30),
        ("absurd number", "categories", "id", -(2**60)),
        ("negative area", "annotations", "area", -3),
        ("no area", "annotations", "area", 0),
        ("no area", "annotations", "area", 0.0),
        ("large area", "annotations", "area", 1e6),
        ("absurd number", "annotations", "area", 1e13),
        ("not finite", "annotations", "area", NAN),
        ("crowd flag", "annotations", "iscrowd", 2),
        ("crowd flag", "annotations", "iscrowd", "0"),
        ("crowd flag", "annotations", "iscrowd", None),
        ("crowd flag", "annotations", "iscrowd", 1.0),
        ("ignore flag", "annotations", "ignore", 1),
        ("ignore flag", "annotations", "ignore", True),
        ("wrong type", "annotations", "ignore", "no"),
        ("not JSON", "annotations", "score", NAN),
        ("not JSON", "images", "score", INF),
    ):
        yield changed(f"{part}.{key} = {value!r:.40}", _set(part, 0, key, value), kind)
    yield changed(
        "no iscrowd", lambda c: [a.pop("iscrowd") for a in c["annotations"]], "no crowd flag"
    )
    yield changed("a small image", lambda c: c["annotations"][0].update(image_id=4), "small image")
    yield changed(
        "all boxes empty",
        lambda c: [a["bbox"].__setitem__(2, 0) for a in c["annotations"]],
        "no size",
    )
    yield changed("gaps", lambda c: _renumber(c, {7: 10**9, 2: -5, 4: 0}))
    yield changed(
        "an image without annotations", lambda c: c["annotations"].__delitem__(slice(2, 4))
    )
    yield changed("another order", lambda c: c["annotations"].reverse())
    yield changed(
        "flags as booleans",
        lambda c: [a.update(iscrowd=a["iscrowd"] == 1) for a in c["annotations"]],
    )


def written() -> Iterator[Mutation]:
    """The same content, or none, written otherwise."""
    sound = json.dumps(sound_content())
    plain = sound.encode()
    texts = {
        "empty": b"",
        "blank": b" \n",
        "a list": b"[" + plain + b"]",
        "a text": b'"images"',
        "null": b"null",
        "NaN": b"NaN",
        "byte order mark": b"\xef\xbb\xbf" + plain,
        "UTF-16": sound.encode("utf-16"),
        "UTF-16 without a mark": sound.encode("utf-16-le"),
        "UTF-32": sound.encode("utf-32"),
        "Latin-1": sound.replace("one.jpg", "é.jpg").encode("latin-1"),
        "deep lists": b"[" * 200_000,
        "deep whole lists": b"[" * 50_000 + b"]" * 50_000,
        "deep objects": b'{"a":' * 100_000,
        "deep segmentation": plain.replace(b"[[5, 5", b"[" * 5000 + b"[[5, 5", 1),
        "a number of many digits": plain.replace(b'"id": 1', b'"id": ' + b"9" * 6000, 1),
        "an exponent": plain.replace(b'"id": 1', b'"id": 1e999999', 1),
        "zeros before": plain.replace(b'"id": 1', b'"id": 01', 1),
        "a comma too many": plain.replace(b"}]", b"},]", 1),
        "single quotes": plain.replace(b'"', b"'"),
        "a comment": b"// made by hand\n" + plain,
        "two files": plain + plain,
        "NUL bytes": plain + b"\0" * 100,
        "zip": b"PK\x03\x04" + bytes(100),
        "only keys": b'{"images": {}, "annotations": {}, "categories": {}}',
        "empty lists": b'{"images": [], "annotations": [], "categories": []}',
    }
    for name, data in texts.items():
        yield Mutation(name, data)
    for key in ("id", "bbox", "file_name", "images", "annotations", "name"):
        twice = sound.replace(f'"{key}":', f'"{key}": [], "{key}":', 1).encode()
        yield Mutation(f"{key} twice", twice, "repeated key")
    for i in range(1, 30):
        yield Mutation(f"cut after {i}/30", plain[: len(plain) * i // 30])


def random_content(seed: int) -> Mutation:
    """Two to four odd values in places drawn at random."""
    draw = random.Random(f"content {seed}")
    content = sound_content()
    for _ in range(draw.randint(2, 4)):
        part = draw.choice(list(NEEDED))
        entry = draw.choice(content[part])
        key = draw.choice(NEEDED[part])
        pool = [*ODD, *(copy.deepcopy(e.get(key)) for e in content[part])]
        for table in (BOXES, POLYGONS, RLES):
            pool += (
                [value for values in table.values() for value in values]
                if draw.random() < 0.5
                else []
            )
        entry[key] = draw.choice(pool)
    return Mutation(f"content {seed}", _encode(content))


def random_bytes(seed: int) -> Mutation:
    """One to three bytes, or stretches of them, changed, put in, taken out or doubled."""
    draw = random.Random(f"bytes {seed}")
    data = bytearray(json.dumps(sound_content()).encode())
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data))
        length = draw.choice((1, 1, 1, 2, 5, 50))
        action = draw.choice(("flip", "digit", "insert", "delete", "double", "cut"))
        if action == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif action == "digit":
            digits = [i for i, byte in enumerate(data) if byte in b"0123456789-.e"]
            data[draw.choice(digits)] = draw.choice(b"0123456789-.e")
        elif action == "insert":
            data[at:at] = bytes(draw.randrange(256) for _ in range(length))
        elif action == "delete":
            del data[at : at + length]
        elif action == "double":
            data[at:at] = data[at : at + length]
        elif draw.random() < 0.3:
            del data[at:]
    return Mutation(f"bytes {seed}", bytes(data))


def changed(name: str, change: Callable[[dict], object], kind: str | None = None) -> Mutation:
    content = sound_content()
    change(content)
    return Mutation(name, _encode(content), kind)


def _encode(content: dict) -> bytes:
    return json.dumps(content).encode()


def _set(part: str, number: int, key: str, value: object) -> Callable[[dict], object]:
    return lambda content: content[part][number].update({key: value})


def _put(entries: list, value: object) -> None:
    entries[1] = value


def _renumber(content: dict, ids: dict[int, int]) -> None:
    for category in content["categories"]:
        category["id"] = ids[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]
