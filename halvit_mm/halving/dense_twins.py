"""Dense weights fitted to the dense twin of a half-weight backbone, one function for each kind.

Each takes the weights, the half-weight backbone's options and its dense twin, whose sizes the
weights must have.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..backbones import HalfResNet, MiniDeiT, MiniSwin, mini_swin
from ..backbones.plain_vit import PlainViT
from ..checkpoints import swins, vision_transformers
from ..checkpoints.key_map import KeyMap, head_classes, weightless_classifier
from ..checkpoints.reading import StateDict
from ..errors import UserError

#: What is compared: how it is said, and what to look for in another config.
_SIZES = {
    "width": ("is {} wide", "width"),
    "depth": ("has {} blocks", "depth"),
    "depths": ("has stages of {} blocks", "depths"),
    "num_heads": ("has {} attention heads", "number of heads"),
    "patch_size": ("has patches of {} pixels", "patch_size"),
    "in_channels": ("reads {} channels", "in_channels"),
    "hidden": ("has feed-forward layers of {} hidden units", "mlp_ratio"),
    "inner_width": ("has 3×3 convolutions of {} channels in its first stage", "width"),
    "group_width": ("has groups of {} channels in its first stage", "groups and base_width"),
    "stem": ("has a first convolution of {} pixels", "stem"),
    "stem_channels": ("has a stem of {} channels", "stem_channels"),
}


@dataclass(frozen=True, kw_only=True)
class DenseWeights:
    """Weights of a dense model in this project's names.

    Attributes:
        title: What they were read from, in words.
        backbone: Config of the dense backbone.
        state_dict: The weights, ``backbone.…``, and ``head.fc.…`` if there is a head.
        left_out: Parts of the source that are not used, with their numbers of tensors.
    """

    title: str
    backbone: dict[str, Any]
    state_dict: StateDict
    left_out: dict[str, int]


def read_vit(weights: StateDict, half: dict[str, Any], twin: PlainViT) -> DenseWeights:
    """Reads a plain vision transformer for a HaLViT or a MiniDeiT."""
    ours = vision_transformers.source_of(weights) == "ours"
    has_cls_token = any(name.endswith("cls_token") for name in weights)
    positions = next((name for name in weights if ".rel_pos." in name), None)
    if ours and positions and half["type"] == "MiniDeiT":
        raise UserError(
            f"the dense model has other relative positions than a MiniDeiT ({positions}): give a "
            "model without any, or choose a config of a HaLViT"
        )
    # Other people's models attend globally; of the own ones, the config says.
    shared = ("window_size", "global_blocks") if ours and not has_cls_token else ()
    read = vision_transformers.read_dense(
        weights,
        num_heads=1,  # for now, as the weights are the same for any number
        img_size=half.get("img_size", 224),
        options={option: half[option] for option in shared if option in half},
    )
    backbone, state_dict = dict(read.backbone), read.state_dict
    dim, depth = backbone["arch"]["dim"], backbone["arch"]["depth"]
    _compare(
        width=(dim, twin.embed_dims),
        depth=(depth, twin.num_layers),
        patch_size=(backbone["patch_size"], twin.patch_size),
        in_channels=(backbone["in_channels"], twin.patch_embed.in_channels),
        hidden=(int(dim * backbone["mlp_ratio"]), twin.blocks[0].ffn.fc1.out_features),
    )
    backbone["arch"] = dict(dim=dim, depth=depth, num_heads=twin.num_heads)
    if ours and (has_cls_token or half.get("out_type") != "cls_token"):
        backbone["out_type"] = half.get("out_type") or backbone["out_type"]
    if half["type"] == "MiniDeiT":
        backbone |= dict(type="MiniDeiT", **MiniDeiT.dense_twin)
        backbone.pop("rel_pos", None)
        if backbone.pop("layer_scale") is not None:
            state_dict = _fold_layer_scale(state_dict)
        state_dict = {
            re.sub(r"(blocks\.\d+\.norm[12])\.", r"\1.0.", name): value
            for name, value in state_dict.items()
        }
    return DenseWeights(
        title=read.source, backbone=backbone, state_dict=state_dict, left_out=read.left_out
    )


def read_swin(weights: StateDict, half: dict[str, Any], twin: MiniSwin) -> DenseWeights:
    """Reads a Swin for a MiniSwin."""
    read = swins.read_dense(weights, window_size=twin.stages[0].window_size)
    backbone = read.backbone
    arch = backbone["arch"]
    arch = mini_swin.ARCHS[arch] if isinstance(arch, str) else arch
    _compare(
        width=(arch["dim"], twin.num_features[0]),
        depths=(arch["depths"], tuple(stage.num_layers for stage in twin.stages)),
        num_heads=(
            arch["num_heads"],
            tuple(stage.blocks[0].attn.num_heads for stage in twin.stages),
        ),
        patch_size=(backbone["patch_size"], twin.patch_size),
        in_channels=(backbone["in_channels"], twin.patch_embed.in_channels),
        hidden=(
            int(arch["dim"] * backbone["mlp_ratio"]),
            twin.stages[0].blocks[0].ffn.fc1.out_features,
        ),
    )
    return DenseWeights(
        title=read.source, backbone=backbone, state_dict=read.state_dict, left_out=read.left_out
    )


def read_resnet(weights: StateDict, half: dict[str, Any], twin: HalfResNet) -> DenseWeights:
    """Reads a ResNet or ResNeXt, whose names are torchvision's whatever stem and norms it has."""
    prefix = "backbone." if any(name.startswith("backbone.") for name in weights) else ""
    head = "head.fc" if prefix or "head.fc.weight" in weights else "fc"
    used = {k: v for k, v in weights.items() if k.startswith((prefix, f"{head}."))}
    left_out = Counter(name.split(".")[0] for name in weights if name not in used)
    own = {f"{prefix}{name}": value for name, value in twin.state_dict().items()}
    conv2 = f"{prefix}layer1.0.conv2.weight"
    places = {
        "width": (f"{prefix}layer1.0.conv3.weight", 0),
        "inner_width": (conv2, 0),
        "group_width": (conv2, 1),
        "in_channels": (f"{prefix}conv1.weight", 1),
        "stem_channels": (f"{prefix}conv1.weight", 0),
        "stem": (f"{prefix}conv1.weight", 3),
    }
    _compare(
        depths=(_blocks(used, prefix), _blocks(own, prefix)),
        **{
            size: (used[name].shape[axis], own[name].shape[axis])
            for size, (name, axis) in places.items()
            if name in used and name in own and used[name].ndim == 4
        },
    )
    parts = {name.split(".")[0] for name in twin.state_dict()}
    names = KeyMap({f"{prefix}{part}": f"backbone.{part}" for part in parts} | {head: "head.fc"})
    backbone = half | HalfResNet.dense_twin
    if (norm := half.get("norm_cfg") or {}).get("type") == "SyncBN":
        backbone["norm_cfg"] = {**norm, "type": "BN"}
    model = weightless_classifier(
        backbone, width=twin.feat_dim, num_classes=head_classes(used, head)
    )
    design = "ResNeXt" if half["type"] == "HalfResNeXt" else "ResNet"
    layers = 2 + 3 * sum(_blocks(own, prefix))
    title = f"{design} of {layers} layers in {'OpenMMLab' if prefix else 'torchvision'}'s names"
    return DenseWeights(
        title=title,
        backbone=backbone,
        state_dict=names.rename(used, model, title=title),
        left_out=dict(left_out),
    )


def _blocks(weights: StateDict, prefix: str) -> tuple[int, ...]:
    """Blocks of each stage of a ResNet."""
    places = (re.match(rf"{re.escape(prefix)}layer([1-4])\.(\d+)\.", name) for name in weights)
    blocks = {match.groups() for match in places if match}
    stages = Counter(stage for stage, _ in blocks)
    return tuple(stages[stage] for stage in sorted(stages))


def _compare(**sizes: tuple[Any, Any]) -> None:
    """Raises where a size of the dense model is not that of the config's backbone."""
    for name, (found, own) in sizes.items():
        if found != own:
            says, what = _SIZES[name]
            found, own = (
                "/".join(map(str, size)) if isinstance(size, tuple) else str(size)
                for size in (found, own)
            )
            raise UserError(
                f"the dense model {says.format(found)}, the config's backbone {own}: choose a "
                f"config of the dense model's {what}, or give another dense model"
            )


def _fold_layer_scale(weights: StateDict) -> StateDict:
    """The same function without LayerScale: γ · (W x + b) = (γ W) x + γ b."""
    folded = {name: value for name, value in weights.items() if not name.endswith(".gamma")}
    layers = {"scale1.gamma": "attn.proj", "scale2.gamma": "ffn.fc2"}
    for name in weights:
        for scale, layer in layers.items():
            if name.endswith(scale):
                layer, gamma = name.removesuffix(scale) + layer, weights[name]
                folded[f"{layer}.weight"] = gamma[:, None] * weights[f"{layer}.weight"]
                folded[f"{layer}.bias"] = gamma * weights[f"{layer}.bias"]
    return folded
