"""Checking the options of backbones."""

from collections.abc import Collection, Mapping, Sequence
from reprlib import repr as short
from typing import Any

from ..layers.checks import check_number, check_sides, is_whole


def parse_arch(
    arch: str | Mapping[str, Any], archs: Mapping[str, dict], keys: Sequence[str]
) -> tuple[Any, ...]:
    """The values of ``keys`` in a named architecture of ``archs`` or in a dict."""
    if isinstance(arch, str):
        if arch not in archs:
            raise ValueError(f"arch={arch!r} is unknown: choose one of {tuple(archs)} or a dict")
        arch = archs[arch]
    elif not isinstance(arch, Mapping):
        raise ValueError(f"arch={short(arch)} is unknown: choose one of {tuple(archs)} or a dict")
    elif set(arch) != set(keys):
        raise ValueError(
            f"arch has the keys {sorted(map(str, arch))}: a dict needs exactly {tuple(keys)}"
        )
    return tuple(arch[key] for key in keys)


def parse_parts(
    value: bool | Collection[str], parts: Collection[str], option: str
) -> frozenset[str]:
    """True is all of ``parts``, False none, and else a subset of them is given."""
    if isinstance(value, bool):
        return frozenset(parts if value else ())
    named = isinstance(value, Collection) and not isinstance(value, str)
    if not named or not all(part in parts for part in value):
        raise ValueError(
            f"{option}={short(value)} is unknown: choose True, False or a subset of {tuple(parts)}"
        )
    return frozenset(value)


def parse_indices(
    indices: int | Sequence[int], count: int, option: str, *, of: str = "blocks"
) -> tuple[int, ...]:
    """Numbers in increasing order, each once, negative ones counted from the end."""
    given = (indices,) if is_whole(indices) else indices
    listed = isinstance(given, Collection) and not isinstance(given, (str, Mapping))
    right = listed and all(is_whole(i) and -count <= i < count for i in given)
    if not right or (option == "out_indices" and not len(given)):
        raise ValueError(f"{option}={short(given)} must name {of} between {-count} and {count - 1}")
    return tuple(sorted({i % count for i in given}))


def check_share(depth: int, share: int, option: str = "share") -> None:
    """A block can only serve a whole number of layers, of which there must be enough."""
    if not is_whole(share) or share < 1 or depth % share:
        raise ValueError(
            f"{option}={short(share)} does not divide the {depth} layers: choose a number that "
            "does, or another depth"
        )


def parse_shares(share: int | Sequence[int], depths: Sequence[int]) -> tuple[int, ...]:
    """The sharing of each stage, of which one number gives all."""
    shares = (share,) * len(depths) if is_whole(share) else share
    if not isinstance(shares, (tuple, list)) or len(shares) != len(depths):
        raise ValueError(
            f"share={short(share)} must have one number for each of {len(depths)} stages"
        )
    for i, (depth, each) in enumerate(zip(depths, shares, strict=True)):
        check_share(depth, each, f"share of stage {i}")
    return tuple(shares)


def pair(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width, of which one number gives both."""
    img_size = (img_size, img_size) if is_whole(img_size) else img_size
    check_sides(img_size=img_size)
    return tuple(img_size)


def parse_numbers(
    values: Sequence[int], option: str, count: int | None = None, *, least: int = 1
) -> tuple[int, ...]:
    """A whole number of at least ``least`` for each stage, of which there are ``count``."""
    listed = isinstance(values, Collection) and not isinstance(values, (str, Mapping))
    right = listed and (len(values) == count if count is not None else len(values) > 0)
    if not right or not all(is_whole(value) and value >= least for value in values):
        stages = "each stage" if count is None else f"each of num_stages={count} stages"
        raise ValueError(
            f"{option}={short(values)} must have one number for {stages}, a whole one of at least "
            f"{least}"
        )
    return tuple(values)


def hidden_width(dim: int, mlp_ratio: float) -> int:
    """Width of a feed-forward's hidden layer."""
    check_number(above=0, mlp_ratio=mlp_ratio)
    if dim * mlp_ratio < 1:
        raise ValueError(
            f"mlp_ratio={mlp_ratio} leaves no hidden channel of {dim}: choose a larger one"
        )
    return int(dim * mlp_ratio)


def drop_path_rates(last: float, count: int) -> list[float]:
    """Stochastic depth of each layer: it grows linearly from 0 at the first."""
    check_number(least=0, most=1, drop_path_rate=last)
    return [last * i / max(count - 1, 1) for i in range(count)]


def check_frozen(frozen_stages: int, count: int, of: str) -> None:
    """−1 freezes nothing; no more stages can be frozen than there are."""
    if not is_whole(frozen_stages) or not -1 <= frozen_stages <= count:
        raise ValueError(
            f"frozen_stages={short(frozen_stages)} is not between -1 and {count}, the number of "
            f"{of}"
        )
