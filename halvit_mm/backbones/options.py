"""Checking the options of backbones."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def parse_arch(
    arch: str | Mapping[str, Any], archs: Mapping[str, dict], keys: Sequence[str]
) -> tuple[Any, ...]:
    """The values of ``keys`` in a named architecture of ``archs`` or in a dict."""
    if isinstance(arch, str):
        if arch not in archs:
            raise ValueError(f"arch={arch!r} is unknown: choose one of {tuple(archs)} or a dict")
        arch = archs[arch]
    elif set(arch) != set(keys):
        raise ValueError(f"arch has the keys {sorted(arch)}: a dict needs exactly {tuple(keys)}")
    return tuple(arch[key] for key in keys)


def parse_parts(
    value: bool | Collection[str], parts: Collection[str], option: str
) -> frozenset[str]:
    """True is all of ``parts``, False none, and else a subset of them is given."""
    if isinstance(value, bool):
        return frozenset(parts if value else ())
    if isinstance(value, str) or not set(value) <= set(parts):
        raise ValueError(
            f"{option}={value!r} is unknown: choose True, False or a subset of {tuple(parts)}"
        )
    return frozenset(value)


def parse_indices(
    indices: int | Sequence[int], count: int, option: str, *, of: str = "blocks"
) -> tuple[int, ...]:
    """Numbers in increasing order, negative ones counted from the end."""
    indices = (indices,) if isinstance(indices, int) else tuple(indices)
    wrong = [i for i in indices if not -count <= i < count]
    if wrong or (option == "out_indices" and not indices):
        raise ValueError(f"{option}={indices} must name {of} between {-count} and {count - 1}")
    return tuple(sorted({i % count for i in indices}))


def check_share(depth: int, share: int, option: str = "share") -> None:
    """A block can only serve a whole number of layers, of which there must be enough."""
    if not isinstance(share, int) or share < 1 or depth % share:
        raise ValueError(
            f"{option}={share} does not divide the {depth} layers: choose a number that does"
        )


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width, of which one number gives both."""
    return (size, size) if isinstance(size, int) else tuple(size)
