"""Turning other people's checkpoints into this project's, recognised by the names in them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import UserError
from ..files import temporary_beside
from . import resnets
from .key_map import Conversion
from .reading import StateDict, find_weights, read_state_dict


class Source(NamedTuple):
    """A family of checkpoints.

    Attributes:
        title: What files these are.
        recognises: Whether a state dict is one of them, by its names.
        read: Turns such a state dict into this project's.
    """

    title: str
    recognises: Callable[[StateDict], bool]
    read: Callable[..., Conversion]


#: Asked in turn.
SOURCES = (Source(resnets.TITLE, resnets.recognises, resnets.read),)


def convert(state_dict: StateDict, *, tied_stages: Sequence[int] = (3, 4)) -> StateDict:
    """Turns the weights of a published model into those of this project's classifier.

    The tensors are the same; only names change, and parts may be left out.

    Args:
        state_dict: The weights, or a checkpoint with them under ``state_dict`` or ``model``.
        tied_stages: For a dense ResNet: the stages that are to be half-weight. Their weights and
            the head's are left out, so that the stem and the other stages remain; ``()`` keeps all
            for the dense twin. Official half-weight models have it fixed at (3, 4).

    Returns:
        Weights ``backbone.…``, and ``head.fc.…`` unless the source lacks it or stages are left out.

    Raises:
        UserError: The weights are of no known model, of several, of a wrong width, or incomplete.
    """
    return read_source(state_dict, tied_stages=tied_stages).state_dict


def read_source(state_dict: StateDict, *, tied_stages: Sequence[int] = (3, 4)) -> Conversion:
    """As :func:`convert`, with what is known about the weights."""
    weights = find_weights(state_dict, "state_dict")
    for source in SOURCES:
        if source.recognises(weights):
            return source.read(weights, tied_stages=tuple(tied_stages))
    titles = "; ".join(source.title for source in SOURCES)
    names = ", ".join(list(weights)[:3])
    raise UserError(f"the weights ({names}, …) are of no known model; known are: {titles}")


def convert_file(
    source: str | Path, target: str | Path, *, tied_stages: Sequence[int] = (3, 4)
) -> Conversion:
    """Converts a file of weights to one with ``state_dict`` and ``meta``, whole or not at all.

    The new file needs no code to load, and the same input gives the same bytes.

    Args:
        source: A file or an http(s) address.
        target: The file to write, which must not exist; its folder is made if need be.
        tied_stages: See :func:`convert`.

    Raises:
        UserError: See :func:`convert`; or the source cannot be read or the target not written.
    """
    target = Path(target).expanduser()
    if target.exists():
        source_path = Path(source).expanduser()
        if source_path.exists() and target.samefile(source_path):
            raise UserError(f"{target}: this is the source itself; give another name to write to")
        raise UserError(f"{target}: this exists already; remove it or give another name")
    weights = read_state_dict(source)
    try:
        conversion = read_source(weights, tied_stages=tied_stages)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error

    from .. import __version__

    # Copies, as tensors may be views that would drag all of a larger storage along.
    compact = {name: value.clone() for name, value in conversion.state_dict.items()}
    meta = {**conversion.facts(), "halvit_mm_version": __version__}
    with temporary_beside(target) as temporary:
        with temporary.open("wb") as file:  # by its path, torch would write the name into the file
            torch.save({"state_dict": compact, "meta": meta}, file)
        os.replace(temporary, target)
    return conversion
