"""ResNets and ResNeXts: the official HaLViT ones, and dense ones of several libraries.

Dense weights give the stem and the dense stages of a half-weight model, or its whole dense twin.
torchvision, timm and bare backbones of OpenMMLab have the same names; whole models of OpenMMLab put
``backbone.`` in front. Whether a dense model strides in its 3×3 convolutions (``style="pytorch"``)
or in the 1×1 (``"caffe"``) does not show in its weights.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..backbones.half_resnet import STAGE_DEPTHS
from ..errors import UserError
from .key_map import Conversion, KeyMap, head_classes, weightless_classifier
from .reading import StateDict

TITLE = "ResNets and ResNeXts of HaLViT's authors, torchvision, timm, mmdet and mmpretrain"

#: Official names in a half-weight stage → ours, for either design; ``*`` numbers the blocks.
_TIED_STAGES = {
    "resnet": {
        "convp": "weight",
        "main_path_upsampler": "widen",
        "downsample_path": "shortcut",
        "processing_blocks.*.0": "blocks.*.bn1",
        "processing_blocks.*.2": "blocks.*.conv2",
        "processing_blocks.*.3": "blocks.*.bn2",
        "final_bns.*": "blocks.*.bn3",
    },
    "resnext": {
        "convp": "weight",
        "channel_adapter": "widen",
        "downsample": "shortcut",
        "bn_pre_list.*": "blocks.*.bn0",
        "conv2_list.*": "blocks.*.conv2",
        "bn2_list.*": "blocks.*.bn2",
        "bn_post_list.*": "blocks.*.bn3",
    },
}
_KINDS = {
    "dense": "a dense ResNet",
    "resnet": "HaLViT's ResNet",
    "resnext": "HaLViT's ResNeXt",
}

#: What the backbones of the repository's configs are, and the middle of the configs' names.
_COMMON = dict(in_channels=3, stem_channels=64, base_channels=64)
_PUBLISHED = {
    "HalfResNet": (
        "resnet50",
        dict(depth=50, groups=1, base_width=64, stage_design="resnet", **_COMMON),
    ),
    "HalfResNeXt": (
        "resnext101",
        dict(depth=101, groups=32, base_width=8, stage_design="resnext", **_COMMON),
    ),
}


def recognises(weights: StateDict) -> bool:
    """Whether the names are those of a ResNet."""
    return any(re.match(r"(backbone\.)?layer[1-4]\.", name) for name in weights)


def read(weights: StateDict, *, tied_stages: Sequence[int] = (3, 4)) -> Conversion:
    """Reads weights that :func:`recognises`.

    Args:
        weights: The weights in their source's names.
        tied_stages: Stages of a dense source to leave out. Its head is left out with them, as it
            has learned on features that the model will not have.

    Raises:
        UserError: The weights mix models, are another kind of ResNet's, or are not complete.
    """
    tied_stages = tuple(tied_stages)
    if wrong := set(tied_stages) - {1, 2, 3, 4}:
        raise UserError(f"tied_stages: there is no stage {min(wrong)}; choose from 1, 2, 3 and 4")
    in_model = any(name.startswith("backbone.layer") for name in weights)
    prefix, head = ("backbone.", "head.fc") if in_model else ("", "fc")
    used = {k: v for k, v in weights.items() if k.startswith((prefix, f"{head}."))}
    left_out = Counter(name.split(".")[0] for name in weights if name not in used)
    weights = used

    kind = _kind(weights, prefix)
    backbone = _backbone(weights, prefix, kind)
    owner = "HaLViT" if kind != "dense" else "OpenMMLab" if in_model else "torchvision"
    source = f"{_title(backbone)} in {owner}'s names"
    if kind != "dense" and set(tied_stages) != {3, 4}:
        raise UserError(
            f"tied_stages={tied_stages} does not fit the {source}, whose stages 3 and 4 are "
            "half-weight: leave the option away"
        )
    width = 32 * backbone["base_channels"]
    model = weightless_classifier(backbone, width=width, num_classes=head_classes(weights, head))
    names = KeyMap(_table(weights, prefix, head, kind))
    converted = names.rename(weights, model, title=source)

    fresh = ()
    if kind == "dense" and tied_stages:
        backbone["tied_stages"] = tuple(sorted(set(tied_stages)))
        fresh = tuple(f"layer{stage}" for stage in backbone["tied_stages"])
        converted, dropped = _split(converted, (*fresh, "head"))
        left_out += dropped
        model = weightless_classifier(backbone, width=width, num_classes=None)
    if "head.fc.weight" not in converted:
        fresh += ("head.fc",)

    numel = {f"backbone.{name}": p.numel() for name, p in model.backbone.named_parameters()}
    config, options = _config(backbone, head_classes(converted, "head.fc"))
    return Conversion(
        state_dict=converted,
        source=source,
        backbone=backbone,
        config=config,
        cfg_options=options,
        fresh=fresh,
        left_out=dict(left_out),
        share=sum(numel[name] for name in numel if name in converted) / sum(numel.values()),
    )


def _config(backbone: dict[str, Any], classes: int | None) -> tuple[str, dict[str, Any]]:
    """The repository's config that comes nearest, and what must be set in it."""
    name, published = _PUBLISHED[backbone["type"]]
    tied_stages = backbone["tied_stages"]
    published = {**published, "tied_stages": (3, 4) if tied_stages else ()}
    options = {
        f"model.backbone.{key}": backbone[key]
        for key, value in published.items()
        if backbone[key] != value
    }
    if backbone["base_channels"] != 64:
        options["model.head.in_channels"] = 32 * backbone["base_channels"]
    if classes not in (None, 1000):
        options["model.head.num_classes"] = classes
    return f"configs/imagenet/{'half' if tied_stages else 'dense'}_{name}_imagenet.py", options


def _split(converted: StateDict, parts: tuple[str, ...]) -> tuple[StateDict, Counter]:
    """The weights without some parts, and how many tensors these have."""
    part_of = {name: name.removeprefix("backbone.").split(".")[0] for name in converted}
    kept = {name: value for name, value in converted.items() if part_of[name] not in parts}
    return kept, Counter(part_of[name] for name in converted if name not in kept)


def _kind(weights: StateDict, prefix: str) -> str:
    """What stages 3 and 4 are: "dense", or half-weight of the design "resnet" or "resnext"."""
    marks = {
        row.split(".")[0]: design
        for design, table in _TIED_STAGES.items()
        for row in table
        if row != "convp"
    }
    marks |= dict.fromkeys(("weight", "widen", "shortcut", "blocks"), "ours")
    examples: dict[str, str] = {}
    for name in weights:
        if match := re.match(rf"{re.escape(prefix)}layer([1-4])\.(\w+)", name):
            stage, part = match.groups()
            kind = "dense" if part.isdigit() else marks.get(part)
            if kind and not (kind == "dense" and stage in "12"):
                examples.setdefault(kind, name)
    if "ours" in examples:
        raise UserError(
            f"the weights have this project's names already ({examples['ours']}): use them as "
            "they are"
        )
    if len(examples) > 1:
        found = " and ".join(f"{_KINDS[kind]} ({name})" for kind, name in examples.items())
        raise UserError(
            f"the weights mix families, {found}: give those of one model, as it saved them"
        )
    return next(iter(examples), "dense")


def _backbone(weights: StateDict, prefix: str, kind: str) -> dict[str, Any]:
    """Config of the backbone whose weights these are, from their names and shapes."""
    depths = tuple(_count_blocks(weights, f"{prefix}layer{stage}", kind) for stage in (1, 2, 3, 4))
    depth = {blocks: depth for depth, blocks in STAGE_DEPTHS.items()}.get(depths)
    if not any(".conv3." in name for name in weights) and depths in ((2, 2, 2, 2), (3, 4, 6, 3)):
        raise UserError(
            "the blocks have two convolutions, as in ResNet-18 and 34: give a ResNet of "
            "bottlenecks, such as ResNet-50"
        )
    if depth is None:
        known = ", ".join("/".join(map(str, blocks)) for blocks in STAGE_DEPTHS.values())
        raise UserError(
            f"the stages have {'/'.join(map(str, depths))} blocks, where ResNet-50, 101 and 152 "
            f"have {known}: give the whole weights of one of these"
        )
    stem_channels, in_channels = _conv_shape(weights, f"{prefix}{_stem(weights, prefix)[0]}.weight")
    width, group_width = _conv_shape(weights, f"{prefix}layer1.0.conv2.weight")
    out_channels, _ = _conv_shape(weights, f"{prefix}layer1.0.conv3.weight")
    groups = max(width // group_width, 1)
    base_channels = max(out_channels // 4, 1)
    backbone_type = "HalfResNeXt" if groups > 1 else "HalfResNet"
    _, published = _PUBLISHED[backbone_type]
    return dict(
        type=backbone_type,
        depth=depth,
        groups=groups,
        base_width=max(64 * group_width // base_channels, 1),
        stage_design=published["stage_design"] if kind == "dense" else kind,
        tied_stages=() if kind == "dense" else (3, 4),
        in_channels=in_channels,
        stem_channels=stem_channels,
        base_channels=base_channels,
    )


def _count_blocks(weights: StateDict, layer: str, kind: str) -> int:
    """One more than the highest number, so that a block that lacks a weight is counted."""
    lists = "|".join(row.split("*")[0] for row in _TIED_STAGES.get(kind, ()) if "*" in row)
    pattern = re.compile(rf"{re.escape(layer)}\.(?:{lists})?(\d+)\.")
    numbers = [int(match[1]) for name in weights if (match := pattern.match(name))]
    return max(numbers, default=-1) + 1


def _conv_shape(weights: StateDict, name: str) -> tuple[int, int]:
    """Output channels, and input channels of a group, of a 2-D convolution."""
    if name not in weights:
        raise UserError(f"the weights are not complete: missing {name}; download the file again")
    shape = tuple(weights[name].shape)
    if len(shape) != 4 or 0 in shape:
        raise UserError(f"{name} is {shape}, no convolution's shape: download the file again")
    return shape[:2]


def _stem(weights: StateDict, prefix: str) -> tuple[str, str]:
    """Names of the stem's convolution and norm."""
    return ("stem.0", "stem.1") if f"{prefix}stem.0.weight" in weights else ("conv1", "bn1")


def _title(backbone: dict[str, Any]) -> str:
    groups, base_width = backbone["groups"], backbone["base_width"]
    if groups > 1:
        return f"ResNeXt-{backbone['depth']} {groups}x{base_width}d"
    return f"ResNet-{backbone['depth']}"


def _table(weights: StateDict, prefix: str, head: str, kind: str) -> dict[str, str]:
    """The source's names → ours."""
    conv, norm = _stem(weights, prefix)
    table = {
        f"{prefix}{conv}": "backbone.conv1",
        f"{prefix}{norm}": "backbone.bn1",
        head: "head.fc",
    }
    for stage in (1, 2, 3, 4):
        layer = f"layer{stage}"
        if kind == "dense" or stage <= 2:
            table[f"{prefix}{layer}.*"] = f"backbone.{layer}.*"
            continue
        for official, ours in _TIED_STAGES[kind].items():
            table[f"{prefix}{layer}.{official}"] = f"backbone.{layer}.{ours}"
        # W is a bare parameter in one official model and might be a convolution's in the other.
        if f"{prefix}{layer}.convp.weight" in weights:
            del table[f"{prefix}{layer}.convp"]
            table[f"{prefix}{layer}.convp.weight"] = f"backbone.{layer}.weight"
    return table
