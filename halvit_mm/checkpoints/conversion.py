"""Turning other people's checkpoints into this project's, recognised by the names in them.

Models of MiniViT's authors can be turned back as well.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from . import minivit, resnets, swins, vision_transformers
from .key_map import Conversion
from .minivit_export import Export, to_official
from .reading import StateDict, find_weights, read_checkpoint, read_state_dict
from .saving import new_file, save_checkpoint


class Source(NamedTuple):
    """A family of checkpoints.

    Attributes:
        title: What files these are.
        recognises: Whether a state dict is one of them, by its names.
        read: Turns such a state dict into this project's.
        options: What ``read`` can be told beside the weights.
    """

    title: str
    recognises: Callable[[StateDict], bool]
    read: Callable[..., Conversion]
    options: tuple[str, ...]


#: Asked in turn; Mini-DeiT's and Mini-Swin's first, as their names are among those of dense models.
SOURCES = (
    Source(resnets.TITLE, resnets.recognises, resnets.read, ("tied_stages",)),
    Source(minivit.TITLE, minivit.recognises, minivit.read, ("img_size", "window_size")),
    Source(
        vision_transformers.TITLE,
        vision_transformers.recognises,
        vision_transformers.read,
        ("img_size", "num_heads"),
    ),
    Source(swins.TITLE, swins.recognises, swins.read, ("window_size",)),
)


def convert(
    state_dict: StateDict,
    *,
    tied_stages: Sequence[int] | None = None,
    img_size: int | None = None,
    window_size: int | None = None,
    num_heads: int | None = None,
) -> StateDict:
    """Turns the weights of a published model into those of this project's classifier.

    The tensors are the same; only names change, axes of length 1 go, and parts may be left out or,
    for other sizes, be resampled.

    Args:
        state_dict: The weights, or a checkpoint with them under ``state_dict`` or ``model``.
        tied_stages: For a dense ResNet: the stages that are to be half-weight, by default 3 and 4.
            Their weights and the head's are left out, so that the stem and the other stages remain;
            ``()`` keeps all for the dense twin. Official half-weight models have it fixed.
        img_size: For ViTs, Mini-DeiT and Mini-Swin: side in pixels of the images that the model is
            to be for; default: as it is.
        window_size: For Swin and Mini-Swin: side of the windows; default: as it is.
        num_heads: For dense ViTs: attention heads; default: as many as there are 64 channels.

    Returns:
        Weights ``backbone.…``, and ``head.fc.…`` unless the source lacks it or stages are left out.

    Raises:
        UserError: The weights are of no known model, of several, of a wrong width, or incomplete;
            or an option does not fit them.
    """
    options = dict(tied_stages=tied_stages, img_size=img_size, window_size=window_size)
    return read_source(state_dict, num_heads=num_heads, **options).state_dict


def read_source(state_dict: StateDict, **options: Any) -> Conversion:
    """As :func:`convert`, with what is known about the weights."""
    weights = find_weights(state_dict, "state_dict")
    given = {name: value for name, value in options.items() if value is not None}
    for source in SOURCES:
        if source.recognises(weights):
            if strange := sorted(given.keys() - set(source.options)):
                raise UserError(
                    f"{strange[0]} does not go with {source.title}: leave the option away"
                )
            return source.read(weights, **given)
    titles = "; ".join(source.title for source in SOURCES)
    names = ", ".join(list(weights)[:3])
    raise UserError(f"the weights ({names}, …) are of no known model; known are: {titles}")


def convert_file(source: str | Path, target: str | Path, **options: Any) -> Conversion:
    """Converts a file of weights to one with ``state_dict`` and ``meta``, whole or not at all.

    The new file needs no code to load, and the same input gives the same bytes.

    Args:
        source: A file or an http(s) address.
        target: The file to write, which must not exist; its folder is made if need be.
        options: See :func:`convert`.

    Raises:
        UserError: See :func:`convert`; or the source cannot be read or the target not written.
    """
    target = new_file(target, source)
    weights = read_state_dict(source)
    try:
        conversion = read_source(weights, **options)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error

    from .. import __version__

    meta = {**conversion.facts(), "halvit_mm_version": __version__}
    save_checkpoint({"state_dict": _compact(conversion.state_dict), "meta": meta}, target)
    return conversion


def export_file(source: str | Path, target: str | Path, **options: Any) -> Export:
    """Turns a checkpoint of this project into one of MiniViT's authors: ``{"model": …}``.

    Converting it again gives the same weights, bit for bit.

    Args:
        source: A file or an http(s) address.
        target: The file to write, which must not exist; its folder is made if need be.
        options: ``img_size`` and ``window_size`` of :func:`.minivit_export.to_official`.

    Raises:
        UserError: The model has no official form; or the source cannot be read or the target not
            written.
    """
    target = new_file(target, source)
    checkpoint = read_checkpoint(source)
    meta = checkpoint.get("meta")
    weights = find_weights(checkpoint, source)
    try:
        export = to_official(weights, meta=meta if isinstance(meta, dict) else None, **options)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    save_checkpoint({"model": _compact(export.state_dict)}, target)
    return export


def _compact(weights: StateDict) -> StateDict:
    """Copies, as tensors may be views that would drag all of a larger storage along."""
    return {name: value.clone() for name, value in weights.items()}
