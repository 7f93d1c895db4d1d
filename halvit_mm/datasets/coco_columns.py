"""The lists of a file in COCO's format as columns of numbers; what is none is noted.

A column is checked at once where it is sound, which takes a fraction of a second for a million
entries, and entry by entry where it is not.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from reprlib import Repr
from typing import Any

import numpy as np

from .check_paths import is_text
from .coco_rules import LARGEST_ID
from .faults import Faults

ABSENT = object()  # where an entry lacks a key
NO_INTEGER = np.iinfo(np.int64).min  # where an entry has no integer

_repr = Repr()
_repr.maxstring = _repr.maxother = 60


def short(value: Any) -> str:
    """A value as Python writes it, of bounded length."""
    return _repr.repr(value)


class Entries:
    """One of the lists of a file.

    Args:
        what: What an entry is: ``"image"``, ``"category"`` or ``"annotation"``.
        listed: The list.
        faults: Takes what is wrong.

    Attributes:
        items: The entries that are objects.
    """

    def __init__(self, what: str, listed: Sequence[Any], faults: Faults) -> None:
        self.what = what
        self.faults = faults
        self.items: list[dict] = list(listed)
        self._places: Sequence[int] = range(len(listed))
        if not set(map(type, listed)) <= {dict}:
            self._places = [i for i, item in enumerate(listed) if isinstance(item, dict)]
            self.items = [listed[i] for i in self._places]
            odd = [i for i, item in enumerate(listed) if not isinstance(item, dict)]
            faults.add_all(
                "not an object",
                odd,
                lambda i: dict(sentence=f"{what} number {i} is {short(listed[i])}, no object"),
            )

    def name(self, i: int) -> str:
        """What to call an item: by its id, else by its place in the list."""
        item = self.items[i]
        named = f"{self.what} {item['id']}" if _is_id(item.get("id")) else ""
        if self.what == "annotation" and named and _is_id(item.get("image_id")):
            return f"{named} of image {item['image_id']}"
        return named or f"{self.what} number {self._places[i]} (the first is 0)"

    def ids(self, i: int) -> dict[str, int]:
        """The ids of an item that are fields of a fault, as far as they are ids."""
        item = self.items[i]
        fields = {f"{self.what}_id": item.get("id")}
        if self.what == "annotation":
            fields |= {key: item.get(key) for key in ("image_id", "category_id")}
        return {key: value for key, value in fields.items() if _is_id(value)}

    def note(self, kind: str, wrong: np.ndarray | Sequence[int], say: Callable[[int], str]) -> None:
        """Notes a fault for items.

        Args:
            kind: Its kind.
            wrong: Numbers of the items, or a mask of all of them.
            say: What is wrong with item number i; follows its name.
        """
        wrong = np.asarray(wrong)
        numbers = np.flatnonzero(wrong) if wrong.dtype == bool else wrong
        self.faults.add_all(
            kind,
            numbers.tolist(),
            lambda i: dict(sentence=f"{self.name(i)} {say(i)}", **self.ids(i)),
        )

    def values(self, key: str, *, needed: bool = True) -> list[Any]:
        """The values of ``key``; :data:`ABSENT` where there is none, which is a fault if needed."""
        values = [item.get(key, ABSENT) for item in self.items]
        if needed:
            lacking = [i for i, value in enumerate(values) if value is ABSENT]
            self.note("missing key", lacking, lambda i: f"lacks {key!r}")
        return values

    def integers(self, key: str) -> np.ndarray:
        """(number of items) int64; :data:`NO_INTEGER` where there is none or none of use."""
        values = self.values(key)
        if set(map(type, values)) <= {int}:
            low, high = min(values, default=0), max(values, default=0)
            if low > -LARGEST_ID and high < LARGEST_ID:
                return np.array(values, np.int64)
        numbers = np.full(len(values), NO_INTEGER)
        types, sizes = [], []
        for i, value in enumerate(values):
            if type(value) is not int:
                types += [i] if value is not ABSENT else []
            elif abs(value) >= LARGEST_ID:
                sizes.append(i)
            else:
                numbers[i] = value
        self.note("wrong type", types, lambda i: f"has {key}={short(values[i])}, no integer")
        self.note("absurd number", sizes, lambda i: f"has {key}={short(values[i])}")
        return numbers

    def numbers(self, key: str, *, count: int = 1, limit: float) -> np.ndarray:
        """(number of items, count) float64 of a number or a list of ``count`` numbers.

        NaN where they are not numbers, not finite, or beyond ±``limit``, which is noted.
        """
        values = self.values(key)
        lists = [[value] for value in values] if count == 1 else values
        if set(map(type, lists)) <= {list} and set(map(len, lists)) <= {count}:
            flat = list(chain.from_iterable(lists))
            if set(map(type, flat)) <= {int, float}:
                found = to_floats(flat).reshape(-1, count)
                if (np.abs(found) <= limit).all():
                    return found
        found = np.full((len(values), count), np.nan)
        kinds: dict[str, list[int]] = {"wrong type": [], "not finite": [], "absurd number": []}
        for i, value in enumerate(lists):
            if value is ABSENT or value == [ABSENT]:
                continue
            kind = fault_of_numbers(value, limit)
            if kind is None and len(value) == count:
                found[i] = value
            else:
                kinds[kind or "wrong type"].append(i)
        expected = "no number" if count == 1 else f"no list of {count} numbers"
        for kind, wrong in kinds.items():
            remark = f", {expected}" if kind == "wrong type" else ""
            self.note(kind, wrong, lambda i, r=remark: f"has {key}={short(values[i])}{r}")
        return found

    def texts(self, key: str) -> list[str | None]:
        """The names; None where there is no text that a file or class could be called."""
        values = self.values(key)
        types = [i for i, v in enumerate(values) if v is not ABSENT and not isinstance(v, str)]
        self.note("wrong type", types, lambda i: f"has {key}={short(values[i])}, no text")
        texts = [value if isinstance(value, str) else None for value in values]
        odd = [i for i, text in enumerate(texts) if text is not None and not is_text(text)]
        self.note("not text", odd, lambda i: f"has {key}={short(values[i])}")
        for i in odd:
            texts[i] = None
        return texts

    def note_repeated(self, key: str, values: Sequence[Any], kind: str) -> None:
        """Notes the items whose value an earlier one has already."""
        seen: dict[Any, int] = {}
        repeated = [
            i
            for i, value in enumerate(values)
            if value is not None and value != NO_INTEGER and seen.setdefault(value, i) != i
        ]
        self.note(
            kind,
            repeated,
            lambda i: (
                f"has {key}={short(values[i])}, as has {self.what} number "
                f"{self._places[seen[values[i]]]} of the list"
            ),
        )


def fault_of_numbers(values: Any, limit: float) -> str | None:
    """The kind of fault of what should be a list of numbers; None if it is one."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return "wrong type"
    if not np.isfinite(to_floats(values)).all():
        huge = any(isinstance(value, int) and abs(value) > limit for value in values)
        return "absurd number" if huge else "not finite"
    return None if all(abs(value) <= limit for value in values) else "absurd number"


def to_floats(values: Sequence[int | float]) -> np.ndarray:
    """float64 of numbers; infinity for integers too large for it."""
    try:
        return np.array(values, np.float64)
    except OverflowError:
        return np.array([v if abs(v) <= 1e300 else np.inf for v in values], np.float64)


def _is_id(value: Any) -> bool:
    return type(value) is int and abs(value) < LARGEST_ID
