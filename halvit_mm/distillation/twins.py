"""Transformers of mmpretrain's as the same networks in this project's classes.

Attention- and hidden-level distillation need what layers compute on the way, which
``forward_features`` of this project's backbones returns and mmpretrain's backbones have no
interface for.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import HaLViT, MiniSwin
from ..checkpoints import swins
from ..checkpoints.key_map import KeyMap
from ..checkpoints.vision_transformer_names import TABLES
from ..errors import UserError

_SWIN_NAMES = KeyMap(swins.MMPRETRAIN)
_VIT_NAMES = KeyMap(TABLES["mmpretrain"])

#: Options that change nothing once a network is trained.
_OF_TRAINING = {
    *("type", "_scope_", "drop_rate", "drop_path_rate", "with_cp", "frozen_stages", "norm_eval"),
    "init_cfg",
}


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A network of mmpretrain's in this project's classes.

    Attributes:
        backbone: The backbone, with the weights of the other.
        norm: What the other does to its outputs besides, each (B, C) on its own; None is nothing.
    """

    backbone: nn.Module
    norm: nn.Module | None = None


class _NormEach(nn.Module):
    """A norm for each of a backbone's outputs."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, outs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(map(self.norm, outs))


def twin_of(backbone: nn.Module, options: Mapping[str, Any], size: tuple[int, int]) -> Twin | None:
    """Makes the twin of a trained backbone and compares the two on an image.

    Args:
        backbone: mmpretrain's backbone, in evaluation mode.
        options: Its config.
        size: Height and width of the image.

    Returns:
        The twin; None if there is none for this class.

    Raises:
        UserError: An option has a value for which this project's class has no counterpart, or both
            disagree about the image.
    """
    from mmpretrain.models import SwinTransformer, VisionTransformer

    # Subclasses compute something else.
    makers = {SwinTransformer: _swin, VisionTransformer: _vision_transformer}
    if (make := makers.get(type(backbone))) is None:
        return None
    parameters = inspect.signature(type(backbone)).parameters.values()
    twin = make(backbone, {p.name: p.default for p in parameters} | dict(options))
    twin.backbone.eval()
    _compare(backbone, twin, size)
    return twin


def _swin(backbone: nn.Module, options: dict[str, Any]) -> Twin:
    window = backbone.stages[0].blocks[0].attn.window_size
    _check_options(
        options,
        read={"arch", "img_size", "patch_size", "in_channels", "window_size", "out_indices"},
        only=dict(
            use_abs_pos_embed=[False],
            interpolate_mode=["bicubic"],  # of the absolute position embedding
            out_after_downsample=[False],
            pad_small_map=[False],
            norm_cfg=[dict(type="LN")],
            patch_cfg=[{}],
            # How mmpretrain's own configs for 384 pixels set the window.
            stage_cfgs=[{}, dict(block_cfgs=dict(window_size=window))],
        ),
        backbone=backbone,
    )
    twin = MiniSwin(
        arch=dict(dim=backbone.embed_dims, depths=backbone.depths, num_heads=backbone.num_heads),
        share=1,
        transforms=False,
        window_size=window,
        patch_size=options["patch_size"],
        in_channels=options["in_channels"],
        out_indices=tuple(backbone.out_indices),
    )
    weights = {
        name: value
        for name, value in backbone.state_dict().items()
        if not name.endswith("relative_position_index")
    }
    weights = _SWIN_NAMES.rename(weights, twin, title="SwinTransformer of mmpretrain's")
    weights = swins.reorder_merging(weights)
    twin.load_state_dict(weights)
    return Twin(backbone=twin)


def _vision_transformer(backbone: nn.Module, options: dict[str, Any]) -> Twin:
    _check_options(
        options,
        read={
            *("arch", "img_size", "patch_size", "in_channels", "out_indices", "final_norm"),
            *("out_type", "with_cls_token", "layer_scale_init_value"),
        },
        only=dict(
            qkv_bias=[True],
            norm_cfg=[dict(type="LN", eps=1e-6)],
            interpolate_mode=["bicubic"],
            patch_cfg=[{}],
            layer_cfgs=[{}],
            pre_norm=[False],
        ),
        backbone=backbone,
    )
    arch = backbone.arch_settings
    dim = arch["embed_dims"]
    twin = HaLViT(
        arch=dict(dim=dim, depth=arch["num_layers"], num_heads=arch["num_heads"]),
        tied=False,
        img_size=backbone.img_size,
        patch_size=options["patch_size"],
        in_channels=options["in_channels"],
        mlp_ratio=arch["feedforward_channels"] / dim,
        with_cls_token=options["with_cls_token"],
        out_type=options["out_type"],
        out_indices=tuple(backbone.out_indices),
        final_norm=options["final_norm"],
        layer_scale=1.0 if options["layer_scale_init_value"] else None,
    )
    averages = options["out_type"] == "avg_featmap"
    weights = {
        name: value
        for name, value in backbone.state_dict().items()
        if not (averages and name.startswith("ln2."))
    }
    weights = _VIT_NAMES.rename(weights, twin, title="VisionTransformer of mmpretrain's")
    twin.load_state_dict(weights)
    return Twin(backbone=twin, norm=_NormEach(backbone.ln2) if averages else None)


def _check_options(
    options: dict[str, Any],
    *,
    read: set[str],
    only: dict[str, list[Any]],
    backbone: nn.Module,
) -> None:
    for name, value in options.items():
        if name in read or name in _OF_TRAINING or value in only.get(name, ()):
            continue
        raise UserError(
            f"the teacher's backbone has {name}={value}: the attention and hidden levels need a "
            f"{type(backbone).__name__} without it; use the prediction level alone"
        )


@torch.no_grad()
def _compare(backbone: nn.Module, twin: Twin, size: tuple[int, int]) -> None:
    """The last word on whether both are the same, whatever options there are."""
    weight = next(backbone.parameters())
    generator = torch.Generator().manual_seed(0)
    channels = twin.backbone.patch_embed.in_channels
    image = torch.randn(1, channels, *size, generator=generator).to(weight)
    expected, given = backbone(image), twin.backbone.to(weight.device)(image)
    if twin.norm is not None:
        given = twin.norm(given)
    for ours, theirs in zip(given, expected, strict=True):
        if ours.shape != theirs.shape or (ours - theirs).abs().max() > 1e-3 * theirs.abs().max():
            raise UserError(
                f"the teacher's {type(backbone).__name__} cannot be followed layer by layer on "
                f"images of {size[0]} × {size[1]} pixels, where its maps do not divide into "
                "windows or its options are unusual; choose another size, or use the prediction "
                "level alone"
            )
