"""Writing a Mini-DeiT or Mini-Swin of this project the way MiniViT's authors do."""

import ast
import re
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from . import minivit
from .minivit_format import key_map, official_buffers, title, unflatten
from .reading import StateDict

#: Parts that published models have for each layer, as they are named here, and what they are.
_PARTS = {
    "norm1": "LayerNorms",
    "mix_logits": "mixers of heads before the softmax",
    "mix_weights": "mixers of heads after the softmax",
}
_OWN_PARTS = {
    "MiniDeiT": _PARTS | {"rel_pos": "relative positions"},
    "MiniSwin": _PARTS | {"local": "local convolutions"},
}
#: What the authors' code can do no other way, of what does not show in the weights.
_FIXED = {
    "MiniDeiT": dict(window_size=0),
    "MiniSwin": dict(mask_all_steps=True),
}


@dataclass(frozen=True, kw_only=True)
class Export:
    """A model in official form.

    Attributes:
        state_dict: The weights and buffers, official names.
        title: What the model is called.
        img_size: Side in pixels of the images that it is for.
        resized: Weights that have been resampled for other sizes, by our names.
    """

    state_dict: StateDict
    title: str
    img_size: int
    resized: tuple[str, ...]

    def summary(self) -> str:
        """What was written, in one line."""
        resampled = f"{len(self.resized)} of them resampled, " if self.resized else ""
        return (
            f"{self.title} in MiniViT's names: {len(self.state_dict)} tensors, {resampled}"
            f"for images of {self.img_size} pixels"
        )


def to_official(
    state_dict: StateDict,
    *,
    meta: dict[str, Any] | None = None,
    img_size: int | None = None,
    window_size: int | None = None,
) -> Export:
    """Turns weights of this project's classifier into what the authors' code loads strictly.

    Args:
        state_dict: The weights, by the names ``backbone.…`` and ``head.fc.…``.
        meta: Facts beside the weights, as :func:`~halvit_mm.checkpoints.conversion.convert_file` or
            a training writes them. They tell options that do not show in the weights.
        img_size: Side in pixels of the images that the model is to be for. Default: that of Mini-
            DeiT's position embedding; for Mini-Swin what ``meta`` says or else the size whose last
            map is one window, as 224 pixels with windows of 7.
        window_size: Side of a Mini-Swin's windows; default: as they are.

    Raises:
        UserError: The model has no official form, or is not complete.
    """
    meta = meta or {}
    kind = _check_parts(state_dict)
    for option, fixed in _FIXED[kind].items():
        if _recorded_options(meta, kind).get(option, fixed) != fixed:
            raise UserError(
                f"the model was trained with {option} other than {fixed}, which the authors' code "
                "cannot do: it has no official form"
            )
    stages = {int(m[1]) for name in state_dict if (m := re.match(r"backbone\.stages\.(\d+)", name))}
    names = key_map(kind, stages=len(stages))
    if unknown := [name for name in state_dict if names.theirs(name) is None]:
        raise UserError(
            f"the weights have parts without an official form ({', '.join(unknown[:3])}): give "
            "those of a classifier whose only output is the last stage's"
        )
    if img_size is None and kind == "MiniSwin":
        img_size = meta.get("img_size")
    official = unflatten({names.theirs(name): value for name, value in state_dict.items()})
    # Reading it back checks every name and shape, and resamples where asked to.
    read = minivit.read(official, img_size=img_size, window_size=window_size)
    official = unflatten({names.theirs(name): value for name, value in read.state_dict.items()})
    dtype = official["patch_embed.proj.weight"].dtype
    return Export(
        state_dict=official | official_buffers(read.backbone, read.img_size, dtype=dtype),
        title=title(read.backbone),
        img_size=read.img_size,
        resized=read.resized,
    )


def _check_parts(state_dict: StateDict) -> str:
    """Type of the backbone, which must have what published ones have."""
    blocks = {
        "MiniDeiT": r"backbone\.blocks\.\d+",
        "MiniSwin": r"backbone\.stages\.\d+\.blocks\.\d+",
    }
    names = "\n".join(state_dict)
    kind = next(
        (kind for kind, block in blocks.items() if re.search(rf"^{block}\.", names, re.M)), None
    )
    if kind is None:
        raise UserError(
            f"the weights ({', '.join(list(state_dict)[:3])}, …) are of no Mini-DeiT or Mini-Swin "
            "of this project: give its classifier's"
        )
    block = blocks[kind]
    if tied := re.search(rf"^{block}\.(attn|ffn)\.weight$", names, re.M):
        raise UserError(
            f"the weights are tied as in HaLViT ({tied[0]}), which the authors' code cannot do: "
            "the model has no official form"
        )
    for part, words in _OWN_PARTS[kind].items():
        steps = set(re.findall(rf"^{block}\.{part}\.(\d+)\.", names, re.M))
        if len(steps) < 2:
            raise UserError(
                f"the layers have no {words} of their own ({part}), without which the authors "
                "publish no model: it has no official form"
            )
    return kind


def _recorded_options(meta: dict[str, Any], kind: str) -> dict[str, Any]:
    """Options of the backbone, as far as the facts beside the weights tell them."""
    if isinstance(meta.get("backbone"), dict):
        return meta["backbone"]
    # A training keeps its config as text. It is read, not run: it may be anybody's.
    try:
        config = ast.parse(str(meta.get("cfg", "")))
    except SyntaxError:
        return {}
    for call in ast.walk(config):
        options = {k.arg: k.value for k in call.keywords} if isinstance(call, ast.Call) else {}
        if getattr(options.get("type"), "value", None) == kind:
            constants = {k: v.value for k, v in options.items() if isinstance(v, ast.Constant)}
            return constants
    return {}
