"""Dense Swin transformers of several libraries as ``MiniSwin(share=1, transforms=False)``.

Three layouts go by two sets of names. Swin's authors and old versions of timm merge patches at the
end of a stage, timm since 0.9 at the beginning of the next one. mmpretrain and mmdet have names of
their own and merge 2 × 2 patches in another order.
"""

import math
import re
from collections import Counter
from typing import Any

import torch

from ..backbones.mini_swin import ARCHS
from ..errors import UserError
from .dense_configs import nearest_swin
from .key_map import Conversion, KeyMap, head_classes, weightless_classifier
from .loading import fit
from .reading import StateDict
from .shapes import AGAIN, count, mlp_ratio, patches, shape

TITLE = "dense Swins of Swin's authors, timm, mmpretrain and mmdet"

#: Names in mmpretrain's and mmdet's backbones → ours; ``*`` numbers stages and blocks.
MMPRETRAIN = {
    "patch_embed.projection": "patch_embed",
    "patch_embed.norm": "patch_norm",
    "stages.*.blocks.*.norm1": "stages.*.blocks.*.norm1.0",
    "stages.*.blocks.*.norm2": "stages.*.blocks.*.norm2.0",
    "stages.*.blocks.*.attn.w_msa.relative_position_bias_table": "stages.*.blocks.*.rel_pos.table",
    "stages.*.blocks.*.attn.w_msa": "stages.*.blocks.*.attn",
    "stages.*.blocks.*.ffn.layers.0.0": "stages.*.blocks.*.ffn.fc1",
    "stages.*.blocks.*.ffn.layers.1": "stages.*.blocks.*.ffn.fc2",
    "stages.*.downsample": "stages.*.downsample",
    **{f"norm{i}": f"norm{i}" for i in range(8)},
}
#: Those of Swin's authors and timm, without patch merging and the last norm.
_AUTHORS = {
    "patch_embed.proj": "patch_embed",
    "patch_embed.norm": "patch_norm",
    "layers.*.blocks.*.norm1": "stages.*.blocks.*.norm1.0",
    "layers.*.blocks.*.norm2": "stages.*.blocks.*.norm2.0",
    "layers.*.blocks.*.attn.relative_position_bias_table": "stages.*.blocks.*.rel_pos.table",
    "layers.*.blocks.*.attn": "stages.*.blocks.*.attn",
    "layers.*.blocks.*.mlp": "stages.*.blocks.*.ffn",
}
#: Those of this project's dense twins.
_OURS = {
    **{name: name for name in ("patch_embed", "patch_norm", "stages.*")},
    **{f"norm{i}": f"norm{i}" for i in range(8)},
}
_OWNERS = {
    "mmpretrain": "mmpretrain's",
    "authors": "the authors'",
    "timm": "timm's",
    "ours": "this project's",
}
#: By what libraries are told apart; the first one that fits counts.
_MARKS = {
    "ours": r"(backbone\.)?stages\.\d+\.blocks\.\d+\.(ffn\.fc[12]|norm[12]\.0)\.",
    "mmpretrain": r"(backbone\.)?stages\.\d+\.blocks\.\d+\.attn\.w_msa\.",
    "authors": r"layers\.\d+\.blocks\.\d+\.attn\.qkv\.",
}
#: What these models make when they need it.
_BUFFER = re.compile(r".*(attn_mask|relative_position_index|relative_coords_table)")
#: What other Swins have and these do not.
_OTHERS = {
    r".*attn\.(w_msa\.)?(logit_scale|cpb_mlp|[qv]_bias)": "is a Swin V2",
    r".*absolute_pos_embed": "has absolute positions",
    r".*\.feature_mixer|.*\.q_norm": "does more than Swin",
}
_GIVE = "give a Swin of the first kind, such as timm's swin_tiny_patch4_window7_224"


def recognises(weights: StateDict) -> bool:
    """Whether the names are those of a dense Swin, or nearly so."""
    return _kind(weights) is not None


def read(weights: StateDict, *, window_size: int | None = None) -> Conversion:
    """Reads weights that :func:`recognises`; see :func:`read_dense`.

    Raises:
        UserError: As there; or the names are this project's already.
    """
    if (kind := _kind(weights)) == "ours":
        example = next(name for name in weights if re.match(_MARKS[kind], name))
        raise UserError(
            f"the weights have this project's names already ({example}): use them as they are"
        )
    return read_dense(weights, window_size=window_size)


def read_dense(weights: StateDict, *, window_size: int | None = None) -> Conversion:
    """Reads weights that :func:`recognises`, those of this project's dense twins as well.

    Args:
        weights: The weights in their source's names.
        window_size: Side of the windows that the model is to have, for which its tables of relative
            positions are resampled; default: the source's.

    Raises:
        UserError: The weights are of a model that ``MiniSwin(share=1, transforms=False)`` is not,
            or not complete.
    """
    kind = _kind(weights)
    prefix = "backbone." if any(name.startswith("backbone.") for name in weights) else ""
    head = "head.fc" if prefix or "head.fc.weight" in weights else "head"
    used, left_out = {}, Counter()
    for name, value in weights.items():
        if not name.startswith((prefix, f"{head}.")):
            left_out[name.split(".")[0]] += 1
        elif not _BUFFER.fullmatch(name):
            used[name] = value
    weights = used
    for name in weights:
        for mark, does in _OTHERS.items():
            if re.match(mark, name):
                raise UserError(f"the model {does} ({name}): {_GIVE}")

    table, stages = _table(weights, prefix, kind)
    names = KeyMap(
        {f"{prefix}{theirs}": f"backbone.{ours}" for theirs, ours in table.items()}
        | {head: "head.fc"}
    )

    def name_of(ours: str) -> str:
        return names.theirs(f"backbone.{ours}") or ours

    dim, in_channels, patch_size = patches(weights, name_of("patch_embed.weight"))
    tables = [name_of(f"stages.{i}.blocks.0.rel_pos.table") for i in range(stages)]
    rows, num_heads = zip(*(shape(weights, table, 2) for table in tables), strict=True)
    depths = tuple(
        count(
            weights,
            re.escape(name_of(f"stages.{i}.blocks.0.norm1.0")).replace(
                r"blocks\.0", r"blocks\.(\d+)"
            ),
        )
        for i in range(stages)
    )
    hidden, _ = shape(weights, name_of("stages.0.blocks.0.ffn.fc1.weight"), 2)
    widths = [dim * 2**i for i in range(stages)]
    if not any(name.endswith("qkv.bias") for name in weights):
        for i, depth in enumerate(depths):
            for j in range(depth):
                bias = name_of(f"stages.{i}.blocks.{j}.attn.qkv.bias")
                weights[bias] = torch.zeros(3 * widths[i])
    for width, heads in zip(widths, num_heads, strict=True):
        if width % heads:
            raise UserError(f"{heads} heads do not divide the width of {width}: {AGAIN}")
    norms = tuple(i for i in range(stages) if name_of(f"norm{i}.weight") in weights)
    backbone = dict(
        type="MiniSwin",
        arch=_named(dict(dim=dim, depths=depths, num_heads=num_heads)),
        share=1,
        transforms=False,
        window_size=_window(dict(zip(tables, rows, strict=True))),
        patch_size=patch_size,
        in_channels=in_channels,
        mlp_ratio=mlp_ratio(hidden, dim),
        out_indices=norms or (stages - 1,),
    )
    classes = head_classes(weights, head)
    source = f"Swin of width {dim} and {'/'.join(map(str, depths))} layers"
    model = weightless_classifier(backbone, width=widths[-1], num_classes=classes)
    converted = names.rename(weights, model, title=source)
    if kind == "mmpretrain":
        converted = reorder_merging(converted)
    if window_size is not None:
        if window_size < 1:
            raise UserError(f"window_size={window_size} is no side of a window: choose 1 or more")
        backbone["window_size"] = window_size
    model = weightless_classifier(backbone, width=widths[-1], num_classes=classes)
    fitted = fit(model, converted)
    config, options = nearest_swin(backbone, classes, width=widths[-1], stages=stages)
    return Conversion(
        state_dict={name: fitted[name] for name in converted},
        source=f"{source} in {_OWNERS[kind]} names",
        backbone=backbone,
        config=config,
        cfg_options=options,
        fresh=() if classes else ("head.fc",),
        left_out=dict(left_out),
        resized=tuple(name for name in converted if fitted[name].shape != converted[name].shape),
    )


def reorder_merging(weights: StateDict) -> StateDict:
    """mmcv's order of the 2 × 2 merged patches (channel, row, column) as Swin's: column, row,
    channel.

    Args:
        weights: Weights in this project's names.
    """
    reordered = {}
    for name, value in weights.items():
        if ".downsample." in name:
            axis = value.dim() - 1
            value = value.unflatten(axis, (-1, 2, 2)).transpose(axis, axis + 2).flatten(axis)
        reordered[name] = value
    return reordered


def _kind(weights: StateDict) -> str | None:
    """Whose names these are."""
    for kind, mark in _MARKS.items():
        if any(re.match(mark, name) for name in weights):
            if kind != "authors":
                return kind
            first = any(name.startswith("layers.0.downsample.") for name in weights)
            later = any(re.match(r"layers\.[1-9]\d*\.downsample\.", name) for name in weights)
            return "timm" if later and not first else kind
    return None


def _table(weights: StateDict, prefix: str, kind: str) -> tuple[dict[str, str], int]:
    """Names of the source's backbone → ours, and how many stages it has."""
    if kind in ("mmpretrain", "ours"):
        stages = count(weights, rf"{re.escape(prefix)}stages\.(\d+)\.")
        return MMPRETRAIN if kind == "mmpretrain" else _OURS, stages
    stages = count(weights, r"layers\.(\d+)\.")
    later = int(kind == "timm")
    merging = {
        f"layers.{i + later}.downsample": f"stages.{i}.downsample" for i in range(stages - 1)
    }
    return _AUTHORS | merging | {"norm": f"norm{stages - 1}"}, stages


def _window(rows: dict[str, int]) -> int:
    """Side of the windows, from the rows of each stage's table of relative positions."""
    sides = {name: (math.isqrt(number) + 1) / 2 for name, number in rows.items()}
    for name, number in rows.items():
        if math.isqrt(number) ** 2 != number or sides[name] % 1:
            raise UserError(f"{name} has {number} rows, which no square window has: {_GIVE}")
    first, *_ = sides.values()
    if other := next((name for name, side in sides.items() if side != first), None):
        raise UserError(
            f"{other} is for windows of {sides[other]:.0f} × {sides[other]:.0f} tokens, where the "
            f"first stage has {first:.0f} × {first:.0f}: give a model for larger images, or of "
            "smaller windows, whose stages have all the same"
        )
    return int(first)


def _named(arch: dict[str, Any]) -> str | dict[str, Any]:
    """The architecture's name, if it has one."""
    return next((name for name, known in ARCHS.items() if known == arch), arch)
