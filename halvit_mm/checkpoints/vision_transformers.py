"""Dense plain vision transformers of several libraries, such as DeiT, as ``HaLViT(tied=False)``.

timm, DeiT's authors and most others share timm's names. Some of what a model computes leaves no
trace in its weights: the number of heads, the activation (GELU is assumed), and whether a model
with a class token reads it (as is assumed) or the mean.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..backbones.halvit import ARCHS
from ..backbones.options import pair
from ..errors import UserError
from .dense_configs import nearest_vit
from .key_map import Conversion, KeyMap, head_classes, weightless_classifier
from .loading import fit
from .reading import StateDict
from .shapes import count, mlp_ratio, patches, shape
from .vision_transformer_names import (
    HEADS,
    MARKS,
    OTHERS,
    OWNERS,
    TABLES,
    present_name,
    source_of,
)

TITLE = "dense ViTs and DeiTs of timm, DeiT's authors, mmpretrain and torchvision"

_GIVE = "give a plain ViT or DeiT, such as timm's vit_base_patch16_224"


def recognises(weights: StateDict) -> bool:
    """Whether the names are those of a plain dense vision transformer, or nearly so."""
    return source_of(weights) is not None


def read(
    weights: StateDict, *, num_heads: int | None = None, img_size: int | None = None
) -> Conversion:
    """Reads weights that :func:`recognises`; see :func:`read_dense`.

    Raises:
        UserError: As there; or the names are this project's already.
    """
    if (kind := source_of(weights)) == "ours":
        example = next(name for name in weights if re.match(MARKS[kind], name))
        raise UserError(
            f"the weights have this project's names already ({example}): use them as they are"
        )
    return read_dense(weights, num_heads=num_heads, img_size=img_size)


def read_dense(
    weights: StateDict,
    *,
    num_heads: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Conversion:
    """Reads weights that :func:`recognises`, those of this project's dense twins as well.

    A distillation token goes, with its position and its head. Where queries, keys and values have
    no biases they get zeros, and so does the position of a class token that has none. A head that
    reads more than this project's features, through a hidden layer or a norm of the mean, is left
    out.

    Args:
        weights: The weights in their source's names.
        num_heads: Attention heads; default: as many as there are 64 channels.
        img_size: Input size in pixels (side, or height and width) that the position embedding is
            to be for, by resampling; default: the source's.
        options: Further ones of the backbone, of which its weights do not tell.

    Raises:
        UserError: The weights are of a model that ``HaLViT(tied=False)`` is not, or not complete.
    """
    kind = source_of(weights)
    weights = {present_name(name): value for name, value in weights.items()}
    prefix = "backbone." if any(name.startswith("backbone.") for name in weights) else ""
    head = "head.fc" if "head.fc.weight" in weights else HEADS[kind]
    weights, left_out = _used(weights, prefix, head, kind)
    _refuse_others(weights, prefix, kind)
    names = KeyMap(
        {f"{prefix}{theirs}": f"backbone.{ours}" for theirs, ours in TABLES[kind].items()}
        | {head: "head.fc"}
    )

    def name_of(ours: str) -> str:
        return names.theirs(f"backbone.{ours}") or ours

    dim, in_channels, patch_size = patches(weights, name_of("patch_embed.weight"))
    depth = count(weights, re.escape(name_of("blocks.0.norm1")).replace("0", r"(\d+)"))
    hidden, _ = shape(weights, name_of("blocks.0.ffn.fc1.weight"), 2)
    if (width := shape(weights, name_of("blocks.0.ffn.fc2.weight"), 2)[1]) != hidden:
        raise UserError(
            f"{name_of('blocks.0.ffn.fc1.weight')} makes {hidden} hidden units of which the next "
            f"layer reads {width}, as gated feed-forward layers do: {_GIVE}"
        )
    if not any(re.search(r"(qkv\.|in_proj_)bias$", name) for name in weights):
        for i in range(depth):
            weights[name_of(f"blocks.{i}.attn.qkv.bias")] = torch.zeros(3 * dim)
    has_cls_token = name_of("cls_token") in weights
    positions = name_of("pos_embed")
    distilled = "dist_token" in left_out
    weights[positions], grid = _positions(
        weights, positions, has_cls_token, distilled, _grid(img_size, patch_size)
    )
    if distilled:
        left_out[f"position of dist_token in {positions}"] = 1

    relative = name_of("blocks.0.rel_pos.table_h")
    if relative in weights:  # the one place where heads show
        num_heads = dim // shape(weights, relative, 2)[1]
    averages = not has_cls_token or "norm of the mean" in left_out
    side = tuple(patch_size * length for length in grid)
    backbone = dict(
        type="HaLViT",
        arch=_named(dict(dim=dim, depth=depth, num_heads=_check_heads(dim, num_heads))),
        tied=False,
        img_size=side[0] if side[0] == side[1] else side,
        patch_size=patch_size,
        in_channels=in_channels,
        mlp_ratio=mlp_ratio(hidden, dim),
        with_cls_token=has_cls_token,
        out_type="avg_featmap" if averages else "cls_token",
        layer_scale=1.0 if name_of("blocks.0.scale1.gamma") in weights else None,
        **(options or {}),
    )
    if kind == "ours":
        backbone["final_norm"] = name_of("norm.weight") in weights
        backbone["rel_pos"] = relative in weights
    classes = head_classes(weights, head)
    source = f"ViT of width {dim} and {depth} layers"
    model = weightless_classifier(backbone, width=dim, num_classes=classes)
    converted = names.rename(weights, model, title=source)
    if img_size is not None:
        backbone["img_size"] = img_size
    model = weightless_classifier(backbone, width=dim, num_classes=classes)
    fitted = fit(model, converted)
    config, cfg_options = nearest_vit(backbone, classes)
    return Conversion(
        state_dict={name: fitted[name] for name in converted},
        source=f"{source} in {OWNERS[kind]} names",
        backbone=backbone,
        config=config,
        cfg_options=cfg_options,
        fresh=() if classes else ("head.fc",),
        left_out=dict(left_out),
        img_size=img_size if isinstance(img_size, int) else max(side),
        resized=tuple(name for name in converted if fitted[name].shape != converted[name].shape),
    )


def _used(weights: StateDict, prefix: str, head: str, kind: str) -> tuple[StateDict, Counter[str]]:
    """The weights that have a place in this project's classifier, and the parts left out."""
    norms = {f"{prefix}ln1.weight", f"{prefix}ln2.weight"}
    twice = kind == "mmpretrain" and norms <= weights.keys()
    headless = twice or any("pre_logits." in name for name in weights)
    used, left_out = {}, Counter()
    for name, value in weights.items():
        if part := next((part for part in ("dist_token", "head_dist") if part in name), None):
            left_out[part] += 1
        elif twice and name.startswith(f"{prefix}ln2."):
            left_out["norm of the mean"] += 1
        elif "pre_logits." in name or (headless and name.startswith(f"{head}.")):
            left_out["head"] += 1
        elif not name.startswith((prefix, f"{head}.")):
            left_out[name.split(".")[0]] += 1
        else:
            used[name] = value
    return used, left_out


def _refuse_others(weights: StateDict, prefix: str, kind: str) -> None:
    """Raises where a tensor says that the model computes something else."""
    for name in weights:
        bare = name.removeprefix(prefix)
        if kind == "ours" and re.fullmatch(r"blocks\.\d+\.rel_pos\.table_[hw]", bare):
            continue
        for mark, does in OTHERS.items():
            if re.match(mark, bare):
                raise UserError(f"the model {does} ({name}): {_GIVE}")


def _positions(
    weights: StateDict,
    name: str,
    has_cls_token: bool,
    distilled: bool,
    asked: tuple[int, int] | None,
) -> tuple[Tensor, tuple[int, int]]:
    """The position embedding, one extra position in front for a class token, and its grid."""
    _, length, _ = shape(weights, name, 3)
    pos = weights[name]
    own = int(has_cls_token)
    # DeiT III's class token has no position.
    for extra in sorted({own + distilled, 0}, reverse=True):
        patches = length - extra
        side = math.isqrt(patches)
        grid = asked if asked and math.prod(asked) == patches else (side, side)
        if math.prod(grid) != patches:
            continue
        if extra != own:
            first = pos[:, :1] if extra else torch.zeros_like(pos[:, :1])
            pos = torch.cat((first, pos[:, extra:]), dim=1)
        return pos, grid
    raise UserError(
        f"{name} has {length} positions, which is no square of patches with "
        f"{own + distilled} more tokens: give a model trained on square images"
    )


def _grid(img_size: int | tuple[int, int] | None, patch_size: int) -> tuple[int, int] | None:
    if img_size is None:
        return None
    return tuple(-(-side // patch_size) for side in pair(img_size))


def _check_heads(dim: int, num_heads: int | None) -> int:
    if num_heads is None and dim % 64:
        raise UserError(
            f"the width of {dim} is no multiple of 64, so that the number of heads, which does not "
            "show in weights, cannot be guessed: say it as num_heads (--num-heads)"
        )
    num_heads = num_heads or dim // 64
    if dim % num_heads:
        raise UserError(f"{num_heads} heads do not divide the width of {dim}: choose a divisor")
    return num_heads


def _named(arch: dict[str, int]) -> str | dict[str, int]:
    """The architecture's name, if it has one."""
    return next((name for name, known in ARCHS.items() if known == arch), arch)
