"""What is wrong with a data set, as values: counted, with examples of each kind."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .coco_rules import RULES


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: A key of :data:`~halvit_mm.datasets.coco_rules.RULES`.
        sentence: What is wrong, naming the entry by its id or else by its place in the list.
        refused: Whether the set is refused for it; else a rule deals with it.
        image_id: The image it belongs to, if it has one that can be told.
        annotation_id: The annotation, if it is one.
        category_id: The category, if it is one.
    """

    kind: str
    sentence: str
    refused: bool
    image_id: int | None = None
    annotation_id: int | None = None
    category_id: int | None = None

    @property
    def treatment(self) -> str:
        """What the rule does with it, or how to put it right."""
        return RULES[self.kind].treatment


@dataclass
class Faults:
    """The faults of one file: all are counted, of each kind the first ones are kept.

    So memory stays bounded where every one of a million annotations has one.

    Attributes:
        evaluated: Whether the set is one for validation or test, which COCO's metric reads too.
        keep: How many of each kind to keep; None for all.
        counts: The number of faults of each kind.
        examples: Those that were kept, by kind, in the order of the file.
    """

    evaluated: bool = False
    keep: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Fault]] = field(default_factory=dict)

    def add_all(
        self, kind: str, places: Iterable[Any], describe: Callable[[Any], dict[str, Any]]
    ) -> None:
        """Notes a fault for each of ``places``, which ``describe`` is called with."""
        places = list(places)
        if not places:
            return
        kept = self.examples.setdefault(kind, [])
        room = None if self.keep is None else self.keep - len(kept)
        refused = RULES[kind].refuses(evaluated=self.evaluated)
        kept += [Fault(kind=kind, refused=refused, **describe(place)) for place in places[:room]]
        self.counts[kind] += len(places)

    def of(self, *, refused: bool) -> dict[str, int]:
        """The numbers of faults that are refused, or else dealt with, in the order of the rules."""
        return {
            kind: self.counts[kind]
            for kind, rule in RULES.items()
            if self.counts[kind] and rule.refuses(evaluated=self.evaluated) == refused
        }
