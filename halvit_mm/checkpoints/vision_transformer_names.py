"""How several libraries call the parts of a plain vision transformer."""

import re

from .reading import StateDict

#: Names in a library's backbone → ours; ``*`` numbers the blocks.
TABLES = {
    "timm": {
        "cls_token": "cls_token",
        "pos_embed": "pos_embed",
        "patch_embed.proj": "patch_embed",
        "blocks.*.norm1": "blocks.*.norm1",
        "blocks.*.attn": "blocks.*.attn",
        "blocks.*.ls1": "blocks.*.scale1",
        "blocks.*.norm2": "blocks.*.norm2",
        "blocks.*.mlp": "blocks.*.ffn",
        "blocks.*.ls2": "blocks.*.scale2",
        "norm": "norm",
    },
    "mmpretrain": {
        "cls_token": "cls_token",
        "pos_embed": "pos_embed",
        "patch_embed.projection": "patch_embed",
        "layers.*.ln1": "blocks.*.norm1",
        "layers.*.attn.gamma1.weight": "blocks.*.scale1.gamma",
        "layers.*.attn": "blocks.*.attn",
        "layers.*.ln2": "blocks.*.norm2",
        "layers.*.ffn.layers.0.0": "blocks.*.ffn.fc1",
        "layers.*.ffn.layers.1": "blocks.*.ffn.fc2",
        "layers.*.ffn.gamma2.weight": "blocks.*.scale2.gamma",
        "ln1": "norm",
    },
    "torchvision": {
        "class_token": "cls_token",
        "encoder.pos_embedding": "pos_embed",
        "conv_proj": "patch_embed",
        "encoder.layers.encoder_layer_*.ln_1": "blocks.*.norm1",
        "encoder.layers.encoder_layer_*.self_attention.in_proj_weight": "blocks.*.attn.qkv.weight",
        "encoder.layers.encoder_layer_*.self_attention.in_proj_bias": "blocks.*.attn.qkv.bias",
        "encoder.layers.encoder_layer_*.self_attention.out_proj": "blocks.*.attn.proj",
        "encoder.layers.encoder_layer_*.ln_2": "blocks.*.norm2",
        "encoder.layers.encoder_layer_*.mlp.0": "blocks.*.ffn.fc1",
        "encoder.layers.encoder_layer_*.mlp.3": "blocks.*.ffn.fc2",
        "encoder.ln": "norm",
    },
    # HaLViT's dense twin has them; MiniDeiT's has lists of one norm (see _FORMER).
    "ours": {name: name for name in ("cls_token", "pos_embed", "patch_embed", "blocks.*", "norm")},
}
OWNERS = {
    "timm": "timm's",
    "mmpretrain": "mmpretrain's",
    "torchvision": "torchvision's",
    "ours": "this project's",
}
#: The last layer, which is called ``head.fc`` under mmpretrain's plainer heads and here.
HEADS = {
    "timm": "head",
    "mmpretrain": "head.layers.head",
    "torchvision": "heads.head",
    "ours": "head.fc",
}
#: By what libraries are told apart; the first one that fits counts.
MARKS = {
    "ours": r"(backbone\.)?blocks\.\d+\.(ffn\.fc[12]|norm[12]\.0)\.",
    "timm": r"(backbone\.)?blocks\.\d+\.attn\.qkv\.",
    "mmpretrain": r"(backbone\.)?layers\.\d+\.attn\.qkv\.",
    "torchvision": r"encoder\.layers\.encoder_layer_\d+\.",
}
#: Where the same layers have other names: DeiT III's own code, torchvision before 0.13, MiniDeiT.
_FORMER = {
    r"(blocks\.\d+)\.gamma_([12])": r"\2.ls\3.gamma",
    r"(encoder\.layers\.encoder_layer_\d+)\.mlp\.linear_1\.(\w+)": r"\2.mlp.0.\3",
    r"(encoder\.layers\.encoder_layer_\d+)\.mlp\.linear_2\.(\w+)": r"\2.mlp.3.\3",
    r"(blocks\.\d+)\.norm([12])\.0\.(\w+)": r"\2.norm\3.\4",
}
#: What other transformers have and these do not.
OTHERS = {
    r"reg(ister)?_tokens?": "has register tokens",
    r".*\.(rel_pos\w*|relative_position_bias_table|relative_position_index|rpe\w*)(\.|$)": (
        "has relative positions"
    ),
    r".*attn\.([qk]_norm|norm|inner_attn_ln)\.": "normalises within its attention",
    r".*(mlp\.(fc1_[gx]|w\d+|norm)|ffn\.w\d+)\.": "has another feed-forward layer",
    r"(norm_pre|ln_pre|pre_norm|patch_embed\.(norm|backbone))(\.|$)": (
        "does more than to cut its images into patches before the first block"
    ),
    r"attn_pool\.": "pools by attention",
    r"(fc_norm|ln2)\.": "normalises after pooling, where these normalise each token before",
}


def source_of(weights: StateDict) -> str | None:
    """Whose names these are."""
    return next(
        (kind for kind, mark in MARKS.items() if any(re.match(mark, name) for name in weights)),
        None,
    )


def present_name(name: str) -> str:
    """The name that the tables have for a layer."""
    for former, present in _FORMER.items():
        name = re.sub(rf"^((?:backbone\.)?){former}$", rf"\1{present}", name)
    return name
