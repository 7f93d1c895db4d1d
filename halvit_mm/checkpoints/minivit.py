"""Reading Mini-DeiT and Mini-Swin as MiniViT's authors publish them."""

import math
import re
from typing import Any

from torch import Tensor

from ..errors import UserError
from .key_map import Conversion, head_classes, weightless_classifier
from .loading import fit
from .minivit_configs import nearest_config
from .minivit_format import (
    ARCHS,
    check_sizes,
    feature_width,
    flatten,
    is_buffer,
    key_map,
    num_stages,
    official_buffers,
    title,
)
from .reading import StateDict
from .shapes import AGAIN, count, patches, shape

TITLE = "Mini-DeiT and Mini-Swin of MiniViT's authors"

_MINI = {"a Mini-DeiT": "MiniDeiT", "a Mini-Swin": "MiniSwin"}
_OURS = "this project's model"
_SWIN_BLOCK = r"(layers|backbone\.stages)\.\d+\.blocks\.\d+"
#: Names by which families of models are told apart; the first one that fits counts.
_MARKS = {
    "a Mini-DeiT": r"blocks\.\d+\.block\.",
    "a Mini-Swin": r"layers\.\d+\.blocks\.\d+\.(norm[12]_list|proj_[lw]|local_\w+_list)\.",
    _OURS: r"backbone\.(blocks|stages\.\d+\.blocks)\.\d+\.(norm1\.\d+|mix_\w+|local|attn\.qkv)\.",
    "a dense Swin": rf"{_SWIN_BLOCK}\.(norm1\.(weight|bias)|attn\.w_msa\.\w+)",
    "a dense DeiT or ViT": r"(backbone\.layers|blocks)\.\d+\.attn\.qkv\.",
}


def recognises(weights: StateDict) -> bool:
    """Whether there are names of a Mini-DeiT or Mini-Swin, of theirs or of this project's."""
    return any(family in _MINI or family == _OURS for family in _families(weights))


def read(
    weights: StateDict, *, img_size: int | None = None, window_size: int | None = None
) -> Conversion:
    """Reads weights that :func:`recognises`.

    Args:
        weights: The weights in their source's names.
        img_size: Side in pixels of the images that the model is to be for; default: the source's.
            Mini-DeiT's position embedding is resampled to it.
        window_size: Side of the windows that a Mini-Swin is to have; default: the source's. Its
            tables of relative positions are resampled to it.

    Raises:
        UserError: The weights mix models, are another kind of model's, or are not complete; or the
            sizes asked for do not fit the model.
    """
    kind = _kind(weights)
    if kind == "MiniDeiT" and window_size is not None:
        raise UserError("window_size is for Mini-Swin, as Mini-DeiT has no windows: leave it away")
    backbone, source_size = (_mini_deit if kind == "MiniDeiT" else _mini_swin)(weights)
    source = title(backbone)
    classes = head_classes(weights, "head")
    width = feature_width(backbone)
    _check_buffers(weights, backbone, source_size)
    parameters = {name: value for name, value in weights.items() if not is_buffer(name)}
    model = weightless_classifier(backbone, width=width, num_classes=classes)
    names = key_map(kind, stages=num_stages(backbone))
    converted = names.rename(flatten(parameters), model, title=source)

    img_size = source_size if img_size is None else img_size
    if kind == "MiniDeiT":
        backbone["img_size"] = img_size
    elif window_size is not None:
        backbone["window_size"] = window_size
    check_sizes(backbone, img_size)
    model = weightless_classifier(backbone, width=width, num_classes=classes)
    fitted = fit(model, converted)
    config, options = nearest_config(backbone, classes)
    return Conversion(
        state_dict={name: fitted[name] for name in converted},
        source=f"{source} in MiniViT's names",
        backbone=backbone,
        config=config,
        cfg_options=options,
        fresh=() if classes else ("head.fc",),
        img_size=img_size,
        resized=tuple(name for name in converted if fitted[name].shape != converted[name].shape),
    )


def _families(weights: StateDict) -> dict[str, str]:
    """What the names are those of, each with an example."""
    examples: dict[str, str] = {}
    for name in weights:
        for family, mark in _MARKS.items():
            if re.match(mark, name):
                examples.setdefault(family, name)
                break
    return examples


def _kind(weights: StateDict) -> str:
    """The type of the backbone whose weights these are."""
    examples = _families(weights)
    found = " and ".join(f"{family} ({name})" for family, name in examples.items())
    if _OURS in examples:
        raise UserError(
            f"the weights have this project's names already ({examples[_OURS]}): use them as they "
            "are, or give --to-official for the authors' names"
        )
    if len(examples) > 1:
        raise UserError(
            f"the weights mix families, {found}: give those of one model, as it saved them"
        )
    (family,) = examples
    return _MINI[family]


def _mini_deit(weights: StateDict) -> tuple[dict[str, Any], int]:
    """Config of the backbone whose weights these are, and the side of its images in pixels."""
    _, in_channels, patch_size = patches(weights, "patch_embed.proj.weight")
    _, positions, dim = shape(weights, "pos_embed", 3)
    grid = math.isqrt(positions)
    if grid**2 != positions:
        raise UserError(
            f"pos_embed has {positions} positions, which is no square, as it is in a Mini-DeiT: "
            "give a model without class token, trained on square images"
        )
    block = "blocks.0.block"
    _, head_dim, _ = shape(weights, f"{block}.attn.rpe_k.instances.0.lookup_table_weight", 3)
    hidden, _ = shape(weights, f"{block}.mlp.fc1.weight", 2)
    if dim % head_dim:
        raise UserError(f"heads of {head_dim} channels do not make the width of {dim}: {AGAIN}")
    share = _steps(weights, r"blocks\.\d+\.block")
    arch = dict(
        dim=dim, depth=share * count(weights, r"blocks\.(\d+)\."), num_heads=dim // head_dim
    )
    img_size = grid * patch_size
    backbone = dict(
        type="MiniDeiT",
        arch=_named(arch, "MiniDeiT"),
        share=share,
        img_size=img_size,
        patch_size=patch_size,
        in_channels=in_channels,
        mlp_ratio=hidden / dim,
    )
    return backbone, img_size


def _mini_swin(weights: StateDict) -> tuple[dict[str, Any], int]:
    """As :func:`_mini_deit`; without masks, the last stage's map is taken for one window."""
    _, in_channels, patch_size = patches(weights, "patch_embed.proj.weight")
    stages = range(count(weights, r"layers\.(\d+)\."))
    dim, *_ = shape(weights, "patch_embed.proj.weight", 4)
    tables = [
        shape(weights, f"layers.{i}.blocks.0.attn.relative_position_bias_table", 2) for i in stages
    ]
    hidden, _ = shape(weights, "layers.0.blocks.0.mlp.fc1.weight", 2)
    num_heads = tuple(heads for _, heads in tables)
    for i, heads in enumerate(num_heads):
        if dim * 2**i % heads:
            raise UserError(f"{heads} heads do not divide the width of {dim * 2**i}: {AGAIN}")
    share = tuple(_steps(weights, rf"layers\.{i}\.blocks\.\d+") for i in stages)
    blocks = [count(weights, rf"layers\.{i}\.blocks\.(\d+)\.") for i in stages]
    depths = tuple(a * b for a, b in zip(share, blocks, strict=True))
    window_size = (math.isqrt(tables[0][0]) + 1) // 2
    side = window_size * 2 ** stages[-1]
    if (mask := "layers.0.blocks.0.attn_mask") in weights:
        side = window_size * math.isqrt(shape(weights, mask, 3)[0])
    backbone = dict(
        type="MiniSwin",
        arch=_named(dict(dim=dim, depths=depths, num_heads=num_heads), "MiniSwin"),
        share=share,
        window_size=window_size,
        patch_size=patch_size,
        in_channels=in_channels,
        mlp_ratio=hidden / dim,
    )
    return backbone, side * patch_size


def _check_buffers(weights: StateDict, backbone: dict[str, Any], img_size: int) -> None:
    """Buffers must be what the sizes say, or the weights would be for another model."""
    found = {name: value for name, value in weights.items() if is_buffer(name)}
    if not found:
        return
    expected = official_buffers(backbone, img_size)
    for name, value in found.items():
        if name not in expected or not _equal(value, expected[name]):
            w = backbone["window_size"]
            raise UserError(
                f"{name} is not that of a {title(backbone)} with windows of {w} × {w} for images "
                f"of {img_size} pixels: {AGAIN}"
            )


def _equal(value: Tensor, expected: Tensor) -> bool:
    if value.shape != expected.shape:
        return False
    # Models that exist as names and shapes only have nothing more to compare.
    return value.is_meta or bool((value == expected.to(value.dtype)).all())


def _steps(weights: StateDict, block: str) -> int:
    """Layers that a block serves."""
    steps = count(weights, rf"{block}\..*(?:instances|_list|proj_[lw])\.(\d+)\.")
    if steps < 2:
        raise UserError(
            "the weights are of a model whose blocks serve one layer each, of which MiniViT has "
            "none: give those of a Mini-DeiT or Mini-Swin"
        )
    return steps


def _named(arch: dict[str, Any], backbone_type: str) -> str | dict[str, Any]:
    """The architecture's name, if it has one."""
    return next((name for name, known in ARCHS[backbone_type].items() if known == arch), arch)
