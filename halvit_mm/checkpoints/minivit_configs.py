"""Which of the repository's configs a Mini-DeiT or Mini-Swin fits."""

from typing import Any

from ..backbones.mini_swin import PUBLISHED_SHARE
from .minivit_format import feature_width


def nearest_config(backbone: dict[str, Any], num_classes: int | None) -> tuple[str, dict[str, Any]]:
    """The repository's config that comes nearest, and what must be set in it.

    Args:
        backbone: Config of the backbone.
        num_classes: Of the head; None if there is none.
    """
    options: dict[str, Any] = {}
    arch = backbone["arch"]
    if isinstance(arch, dict):
        # The dict takes the place of a name, into which it could not be merged.
        options["model.backbone.arch._delete_"] = True
        options |= {f"model.backbone.arch.{key}": value for key, value in arch.items()}
        options["model.head.in_channels"] = feature_width(backbone)
        arch = "tiny"
    choose = _mini_deit if backbone["type"] == "MiniDeiT" else _mini_swin
    name, of_config = choose(backbone, arch)
    of_config = dict(in_channels=3, mlp_ratio=4.0) | of_config
    options |= {
        f"model.backbone.{key}": backbone[key]
        for key, value in of_config.items()
        if backbone[key] != value
    }
    if num_classes not in (None, 1000):
        options["model.head.num_classes"] = num_classes
    return f"configs/imagenet/{name}_imagenet.py", options


def _mini_deit(backbone: dict[str, Any], arch: str) -> tuple[str, dict[str, Any]]:
    """The middle of the config's name, and what it sets or leaves at its default."""
    name, share, img_size = f"mini_deit_{arch}", 2, 224
    if arch == "base" and backbone["share"] == 12:
        name, share = f"{name}_one_block", 12
    elif arch == "base" and backbone["img_size"] == 384:
        name, img_size = f"{name}_384", 384
    return name, dict(patch_size=16, share=share, img_size=img_size)


def _mini_swin(backbone: dict[str, Any], arch: str) -> tuple[str, dict[str, Any]]:
    # With a dict for its name, a config has no published sharing any more.
    share = PUBLISHED_SHARE[arch] if backbone["arch"] == arch else None
    name, window_size = f"mini_swin_{arch}", 7
    if arch == "base" and backbone["window_size"] == 12:
        name, window_size = f"{name}_384", 12
    return name, dict(patch_size=4, share=share, window_size=window_size)
