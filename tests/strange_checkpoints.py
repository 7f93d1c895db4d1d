"""Whole checkpoints of which the content is not what it should be."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from hostile_pickles import with_pickle
from mutated_files import ORDINARY, REFUSED, Mutation, Weights, bytes_of, saved


def strange(weights: Weights) -> Iterator[Mutation]:
    """Whole files of which the content is not what it should be."""
    first, second = list(weights)[:2]
    last = list(weights)[-1]

    def content(name: str, outcome: str, **changed: Any) -> Mutation:
        return bytes_of(name, outcome, saved({"state_dict": {**weights, **changed}}))

    values = {
        "NaN": torch.full((2, 2), torch.nan),
        "∞": torch.tensor([1.0, torch.inf]),
        "-∞": torch.tensor([1.0, -torch.inf]),
        "complex": torch.ones(3, dtype=torch.complex64),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "uint16": torch.ones(3, dtype=torch.uint16),
        "sparse": torch.eye(3).to_sparse(),
        "sparse rows": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "meta": torch.ones(3, device="meta"),
        "a huge meta": torch.empty(10**6, 10**6, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "storage": torch.ones(3).untyped_storage(),
    }
    for name, value in values.items():
        outcome = ORDINARY if name == "storage" else REFUSED
        for place in (first, last, "another"):
            yield content(
                f"{name} in {place}", ORDINARY if name == "storage" else outcome, **{place: value}
            )
    for place in (first, second, last):
        poisoned = weights[place].clone().flatten()
        poisoned[-1] = torch.nan
        yield content(f"one NaN in {place}", REFUSED, **{place: poisoned.view_as(weights[place])})
    changes: dict[str, Callable[[Weights], Any]] = {
        "renamed": lambda w: {f"{n}x" if n == first else n: v for n, v in w.items()},
        "all renamed": lambda w: {f"other.{n}": v for n, v in w.items()},
        "dropped": lambda w: {n: v for n, v in w.items() if n != second},
        "half": lambda w: dict(list(w.items())[: len(w) // 2]),
        "module.": lambda w: {f"module.{n}": v for n, v in w.items()},
        "_orig_mod.": lambda w: {f"_orig_mod.{n}": v for n, v in w.items()},
        "transposed": lambda w: {n: v.mT.contiguous() if v.ndim > 1 else v for n, v in w.items()},
        "flat": lambda w: {n: v.flatten() for n, v in w.items()},
        "one more axis": lambda w: {n: v[None] for n, v in w.items()},
        "without numbers": lambda w: {n: v[..., :0] for n, v in w.items()},
        "scalars": lambda w: {n: v.flatten()[0] for n, v in w.items()},
        "double": lambda w: {n: v.double() for n, v in w.items()},
        "half precision": lambda w: {n: v.half() for n, v in w.items()},
        "whole numbers": lambda w: {n: v.int() for n, v in w.items()},
        "truth values": lambda w: {n: v.bool() for n, v in w.items()},
        "lists": lambda w: {n: v.tolist() for n, v in w.items()},
        "parameters": lambda w: {n: torch.nn.Parameter(v) for n, v in w.items()},
        "views of one": lambda w: {n: v.flatten()[:1].expand(v.shape) for n, v in w.items()},
        "in reverse": lambda w: dict(reversed(w.items())),
        "nothing": lambda w: {},
        "swapped": lambda w: {**w, first: w[last], last: w[first]},
    }
    for name, change in changes.items():
        yield bytes_of(name, ORDINARY, saved({"state_dict": change(weights)}))
    bad_names = {
        "number": 7,
        "nothing": None,
        "bytes": b"a",
        "tuple": ("a", "b"),
        "line break": "a\nb",
        "terminal": "\x1b[2J",
        "half a letter": "\ud800",
        "zero": "a\0b",
        "empty": "",
    }
    for name, key in bad_names.items():
        outcome = ORDINARY if name == "empty" else REFUSED
        yield bytes_of(
            f"name: {name}", outcome, saved({"state_dict": {**weights, key: torch.ones(2)}})
        )
    twice = {**weights, f"module.{first}": weights[first]}
    yield bytes_of("with and without module.", REFUSED, saved({"state_dict": twice}))
    shadowed = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x07sb."
    yield bytes_of("a dict without items()", REFUSED, with_pickle(shadowed))
    for version in ("x", 2.5, [1], torch.ones(1)):
        versions = OrderedDict(weights)
        versions._metadata = OrderedDict({"": {"version": version}})
        yield bytes_of(f"version {version}", REFUSED, saved({"state_dict": versions}))
    roots = (torch.ones(3), [weights], (weights,), None, 7, "text", True, set(), OrderedDict(), {})
    for root in roots:
        yield bytes_of(f"a {type(root).__name__} of {len(str(root))}", REFUSED, saved(root))
        yield bytes_of(f"a {type(root).__name__}, legacy", REFUSED, saved(root, legacy=True))
        yield bytes_of(f"state_dict {type(root).__name__}", REFUSED, saved({"state_dict": root}))
        outcome = ORDINARY if isinstance(root, torch.Tensor) else REFUSED  # of that name
        yield bytes_of(f"model {type(root).__name__}", outcome, saved({"model": root}))
