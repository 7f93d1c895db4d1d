"""How MiniViT's authors write a Mini-DeiT or a Mini-Swin down: names, shapes and buffers.

The weights are the same as here under other names. Mixers of heads are 1 × 1 convolutions in their
Mini-DeiT, whose tables have a leading axis. Blocks of their Mini-Swin hold the attention mask and
the rows of the relative position table as buffers, which this project makes when it needs them.
"""

import re
from typing import Any

import torch
from torch import Tensor

from ..backbones import mini_deit, mini_swin
from ..errors import UserError
from ..layers import WindowLayout, WindowRelativePosition
from .key_map import KeyMap
from .reading import StateDict

ARCHS = {"MiniDeiT": mini_deit.ARCHS, "MiniSwin": mini_swin.ARCHS}

#: Official names → ours; ``*`` numbers blocks and the layers that a block serves.
_MINI_DEIT = {
    "pos_embed": "backbone.pos_embed",
    "patch_embed.proj": "backbone.patch_embed",
    "norm": "backbone.norm",
    "head": "head.fc",
}
_MINI_DEIT_BLOCK = {
    "norm1.instances.*": "norm1.*",
    "norm2.instances.*": "norm2.*",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "attn.rpe_k.instances.*.lookup_table_weight": "rel_pos.*.table",
    "attn.conv_l.instances.*": "mix_logits.*",
    "attn.conv_w.instances.*": "mix_weights.*",
    "mlp": "ffn",
}
_MINI_SWIN = {
    "patch_embed.proj": "backbone.patch_embed",
    "patch_embed.norm": "backbone.patch_norm",
    "layers.*.downsample": "backbone.stages.*.downsample",
    "head": "head.fc",
}
_MINI_SWIN_BLOCK = {
    "norm1_list.*": "norm1.*",
    "norm2_list.*": "norm2.*",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "attn.relative_position_bias_table": "rel_pos.table",
    "proj_l.*": "mix_logits.*",
    "proj_w.*": "mix_weights.*",
    "local_norm_list.*": "local.*.norm",
    "local_conv_list.*": "local.*.conv",
    "mlp": "ffn",
}
_MIXER = re.compile(r"blocks\.\d+\.block\.attn\.conv_[lw]\.instances\.\d+\.weight")
_TABLE = re.compile(r"blocks\.\d+\.block\.attn\.rpe_k\.instances\.\d+\.lookup_table_weight")
_BUFFER = re.compile(r"layers\.\d+\.blocks\.\d+\.(attn_mask|attn\.relative_position_index)")


def key_map(backbone_type: str, *, stages: int = 1) -> KeyMap:
    """Official names and ours for a classifier with a backbone of so many stages."""
    if backbone_type == "MiniDeiT":
        theirs, ours = "blocks.*.block", "backbone.blocks.*"
        table, of_block = _MINI_DEIT, _MINI_DEIT_BLOCK
    else:
        theirs, ours = "layers.*.blocks.*", "backbone.stages.*.blocks.*"
        table, of_block = _MINI_SWIN | {"norm": f"backbone.norm{stages - 1}"}, _MINI_SWIN_BLOCK
    return KeyMap(table | {f"{theirs}.{k}": f"{ours}.{v}" for k, v in of_block.items()})


def arch_of(backbone: dict[str, Any]) -> dict[str, Any]:
    """The architecture, whether the backbone has it by name or as a dict."""
    arch = backbone["arch"]
    return ARCHS[backbone["type"]][arch] if isinstance(arch, str) else arch


def num_stages(backbone: dict[str, Any]) -> int:
    """Stages of a Mini-Swin; a Mini-DeiT is one."""
    return len(arch_of(backbone).get("depths", [1]))


def feature_width(backbone: dict[str, Any]) -> int:
    """Width of the features that a head reads."""
    return arch_of(backbone)["dim"] * 2 ** (num_stages(backbone) - 1)


def title(backbone: dict[str, Any]) -> str:
    """What to call the model."""
    family = backbone["type"].replace("Mini", "Mini-")
    if isinstance(backbone["arch"], str):
        return f"{family}-{backbone['arch'].capitalize()}"
    arch = arch_of(backbone)
    layers = "/".join(map(str, arch.get("depths", [arch.get("depth")])))
    return f"{family} of width {arch['dim']} and {layers} layers"


def check_sizes(backbone: dict[str, Any], img_size: int) -> None:
    """Patches and windows must divide the images, as the authors' code pads nothing."""
    patch = backbone["patch_size"]
    if img_size < 1 or img_size % patch:
        raise UserError(
            f"img_size={img_size} is no multiple of the {patch} pixels of a patch: choose one"
        )
    if backbone["type"] == "MiniDeiT":
        return
    window, sides = backbone["window_size"], map_sides(backbone, img_size)
    halves = img_size // patch / 2 ** (len(sides) - 1)
    if window < 1 or halves % 1 or any(side % window for side in sides):
        raise UserError(
            f"img_size={img_size} makes maps of {', '.join(map(str, sides))} tokens a side, which "
            f"windows of window_size={window} do not divide: choose both so that they do, such as "
            "224 and 7, or 384 and 12"
        )


def is_buffer(name: str) -> bool:
    """Whether an official name is that of a buffer."""
    return _BUFFER.fullmatch(name) is not None


def flatten(weights: StateDict) -> StateDict:
    """Official weights in our shapes. Those that are of no official shape stay as they are."""
    flat = {}
    for name, value in weights.items():
        if _MIXER.fullmatch(name) and value.shape[2:] == (1, 1):
            value = value[:, :, 0, 0]
        elif _TABLE.fullmatch(name) and value.ndim == 3 and len(value) == 1:
            value = value[0]
        flat[name] = value
    return flat


def unflatten(weights: StateDict) -> StateDict:
    """Inverse of :func:`flatten`."""
    return {
        name: value[..., None, None]
        if _MIXER.fullmatch(name)
        else value[None]
        if _TABLE.fullmatch(name)
        else value
        for name, value in weights.items()
    }


def map_sides(backbone: dict[str, Any], img_size: int) -> list[int]:
    """Sides of a Mini-Swin's maps, stage by stage, for images of a side in pixels."""
    return [img_size // backbone["patch_size"] // 2**i for i in range(num_stages(backbone))]


def official_buffers(
    backbone: dict[str, Any], img_size: int, *, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The buffers of a Mini-Swin by their official names; a Mini-DeiT has none.

    Args:
        backbone: Config of the backbone.
        img_size: Side in pixels of the images that the masks are for.
        dtype: Of the masks, as in the weights.
    """
    if backbone["type"] == "MiniDeiT":
        return {}
    buffers = {}
    depths = arch_of(backbone)["depths"]
    share, window = backbone["share"], backbone["window_size"]
    rows = _table_rows(window)
    for i, side in enumerate(map_sides(backbone, img_size)):
        mask = _attention_mask(side, window).to(dtype) if side > window > 1 else None
        for b in range(depths[i] // share[i]):
            block = f"layers.{i}.blocks.{b}"
            if mask is not None:
                buffers[f"{block}.attn_mask"] = mask
            buffers[f"{block}.attn.relative_position_index"] = rows
    return buffers


def _attention_mask(side: int, window: int) -> Tensor:
    """What is added to the logits in the windows of a shifted map: (windows, tokens, tokens)."""
    layout = WindowLayout((side, side), (window, window), shift=(window // 2, window // 2))
    seen = layout.mask(torch.empty(1, side**2, 0))
    return torch.where(seen[:, 0], 0.0, -100.0)


def _table_rows(window: int) -> Tensor:
    """Row of the table of relative positions for each query and key of a window."""
    # A table that holds the numbers of its rows gives them where they belong.
    rel_pos = WindowRelativePosition((window, window), num_heads=1)
    rel_pos.table.data = torch.arange(len(rel_pos.table), dtype=torch.float64)[:, None]
    queries = torch.empty(1, 1, window**2, 0)
    return rel_pos(queries, (window, window))[0, 0].detach().long()
