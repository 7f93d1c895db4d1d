"""Weight selection: a narrow dense model starts from a subset of a wide one's weights.

It is the control of the same parameter count for a half-weight model that was made from the same
dense one. Source: Xu et al., "Initializing Models with Larger Ones" (weight selection), ICLR 2024:
the first layers of a deeper model, and of each axis of a tensor evenly spaced elements, the same
ones for all axes of a length.

What the paper leaves open is done so:

- Queries, keys and values are rows of one weight here; each of the three is selected for itself, so
  that values and the projection that reads them keep the same channels. Where both models have
  equally many heads, so many channels come from each head; otherwise neighbouring heads merge, as
  in the authors' code.
- The head is selected like all else, but keeps its classes; the authors start it anew, as theirs
  are other ones.
- Position embeddings are resampled if the grid of patches is another one.
- The activation has no weights. With ``signed_ffn`` hidden units would end up with other signs.
"""

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import read_state_dict
from ..checkpoints.key_map import first_names
from ..checkpoints.reading import StateDict
from ..checkpoints.saving import new_file, save_checkpoint
from ..errors import UserError
from ..layers import adapt_position_embedding

#: A layer of a stack: what stands before its number, and the number.
_LAYER = re.compile(r"(?:^|\.)(?:blocks|layer\d+)\.(\d+)\.")
_QKV = re.compile(r"\.qkv\.(?:weight|bias)$")
_IMAGE_WEIGHTS = re.compile(r"^(?:backbone\.)?(?:patch_embed|conv1|stem\.0)\.weight$")


def indices(wide: int, narrow: int) -> Tensor:
    """Evenly spaced places on an axis, by the authors' rule.

    Every n-th from the first, if ``wide`` is n times ``narrow``; otherwise from the first to the
    last, rounded.

    Args:
        wide: Length of the axis.
        narrow: How many places are wanted, at most ``wide``.

    Returns:
        (narrow), ascending, each once.
    """
    if wide % narrow == 0:
        return torch.arange(narrow) * (wide // narrow)
    return torch.linspace(0, wide - 1, narrow, dtype=torch.float64).round().long()


def select(wide: StateDict, narrow: StateDict) -> StateDict:
    """Selects the weights of a narrow model from those of a wide one of the same kind.

    Both are state dicts of this project's dense models, whole classifiers or bare backbones:
    ``HaLViT(tied=False)`` or ``HalfResNet(tied_stages=())``.

    Args:
        wide: The weights to select from.
        narrow: Names, shapes and types that are wanted; values do not matter.

    Returns:
        What ``narrow`` names, in its shapes and types, without memory in common with ``wide``.

    Raises:
        UserError: The two are not of one kind, or ``narrow`` is the wider one somewhere; or a
            selected value is NaN or infinite.
    """
    _check_names(wide, narrow)
    selected = {}
    for name, like in narrow.items():
        tensor = wide[name]
        if name.endswith("pos_embed"):
            tensor = _resampled(tensor, like, has_cls_token=_cls_token(name) in narrow)
        for axis in _axes(name, tensor, like):
            parts = tensor.chunk(3) if axis == 0 and _QKV.search(name) else (tensor,)
            chosen = indices(parts[0].shape[axis], like.shape[axis] // len(parts))
            tensor = torch.cat([part.index_select(axis, chosen) for part in parts], dim=axis)
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{name} holds NaN or infinity; take a checkpoint from before that")
        selected[name] = tensor.to(dtype=like.dtype, copy=True)
    return selected


def select_file(source: str | Path, target: str | Path, config: str | Path) -> StateDict:
    """Selects the weights for a config's model and writes them as its checkpoint.

    Args:
        source: Checkpoint of the wide model, a file or an http(s) address.
        target: File to write, with ``state_dict`` and ``meta``, whole or not at all.
        config: The narrow model's config.

    Returns:
        The weights.

    Raises:
        UserError: See :func:`select`; or a file cannot be read or written.
    """
    from .. import __version__
    from ..analysis.weightless import build_without_weights
    from ..engine.config_errors import load_config

    target = new_file(target, source)
    wide = read_state_dict(source)
    cfg = load_config(config)
    narrow = build_without_weights(cfg).state_dict()
    try:
        weights = select(wide, narrow)
    except UserError as error:
        raise UserError(f"{source} for {config}: {error}") from error
    meta = {"initialization": "weight selection", "halvit_mm_version": __version__}
    save_checkpoint({"state_dict": weights, "meta": meta}, target)
    return weights


def _check_names(wide: StateDict, narrow: StateDict) -> None:
    """All that is wanted is there, and what is left over are further layers of a stack."""
    if missing := [name for name in narrow if name not in wide]:
        raise UserError(
            f"the wide model lacks {first_names(missing)}; weights are selected from a deeper or "
            "equally deep dense model of the same class (tied=False, tied_stages=())"
        )
    depths: dict[str, int] = {}
    for name in narrow:
        if found := _LAYER.search(name):
            stack = name[: found.start(1)]
            depths[stack] = max(depths.get(stack, 0), int(found[1]) + 1)
    unknown = []
    for name in wide:
        found = _LAYER.search(name)
        deeper = found and int(found[1]) >= depths.get(name[: found.start(1)], math.inf)
        if name not in narrow and not deeper:
            unknown.append(name)
    if unknown:
        raise UserError(
            f"the narrow model has no {first_names(unknown)}; give the config of a model of the "
            "same class"
        )


def _axes(name: str, tensor: Tensor, like: Tensor) -> list[int]:
    """The axes along which elements are selected; the others are equally long.

    Raises:
        UserError: An axis is longer in the narrow model, or its elements are no channels.
    """
    shapes = f"{name} is {tuple(tensor.shape)} in the wide model, {tuple(like.shape)} in the narrow"
    if tensor.ndim != like.ndim:
        raise UserError(f"{shapes}; give models of the same class")
    axes = [a for a in range(like.ndim) if tensor.shape[a] != like.shape[a]]
    for axis in axes:
        if like.shape[axis] > tensor.shape[axis]:
            raise UserError(f"{shapes}, which is wider; weights are selected from a wider model")
        if name.startswith("head.") and axis == 0:
            raise UserError(f"{shapes}: weight selection keeps the classes; make them equal")
        if tensor.ndim == 4 and axis >= 2:
            raise UserError(
                f"{shapes}: weight selection keeps kernels and patches; make them equal"
            )
        if axis == 1 and _IMAGE_WEIGHTS.search(name):
            raise UserError(
                f"{shapes}: weight selection keeps the images' channels; make them equal"
            )
        if ".rel_pos." in name and axis == 0:
            raise UserError(f"{shapes}: the tables are of different maps; make img_size equal")
    return axes


def _resampled(pos: Tensor, like: Tensor, *, has_cls_token: bool) -> Tensor:
    """A position embedding (1, wide length, C) → (1, narrow length, C); grids are square."""
    if pos.ndim != 3 or like.ndim != 3 or pos.shape[1] == like.shape[1]:
        return pos
    extra = int(has_cls_token)
    side = math.isqrt(like.shape[1] - extra)
    # Its width is still the wide one; only the length is fitted here.
    frame = pos.new_zeros(1, like.shape[1], pos.shape[2])
    fitted = adapt_position_embedding(pos, frame, (side, side), extra)
    if fitted.shape != frame.shape:
        raise UserError(
            f"pos_embed is of {pos.shape[1]} tokens in the wide model and {like.shape[1]} in the "
            "narrow one, which only square images allow; make img_size equal"
        )
    return fitted


def _cls_token(name: str) -> str:
    return f"{name.removesuffix('pos_embed')}cls_token"
