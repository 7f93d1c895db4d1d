"""Which of the repository's configs a dense vision transformer fits."""

from typing import Any

from ..backbones.halvit import ARCHS


def nearest_vit(backbone: dict[str, Any], classes: int | None) -> tuple[str, dict[str, Any]]:
    """The repository's config that comes nearest, and what must be set in it."""
    arch = backbone["arch"]
    name = arch if arch in ("tiny", "medium") else "tiny"
    options: dict[str, Any] = {}
    if isinstance(arch, dict):
        # The dict takes the place of a name, into which it could not be merged.
        options["model.backbone.arch._delete_"] = True
        options |= {f"model.backbone.arch.{key}": value for key, value in arch.items()}
    elif arch != name:
        options["model.backbone.arch"] = arch
    dim = ARCHS[arch]["dim"] if isinstance(arch, str) else arch["dim"]
    if dim != ARCHS[name]["dim"]:
        options["model.head.in_channels"] = dim
    of_config = dict(img_size=224, patch_size=16, in_channels=3, mlp_ratio=4.0, layer_scale=None)
    of_config |= dict(with_cls_token=True, out_type="cls_token")
    options |= {
        f"model.backbone.{key}": backbone[key]
        for key, value in of_config.items()
        if backbone[key] != value
    }
    if classes not in (None, 1000):
        options["model.head.num_classes"] = classes
    return f"configs/imagenet/dense_vit_{name}_imagenet.py", options


def nearest_swin(
    backbone: dict[str, Any], classes: int | None, *, width: int, stages: int
) -> tuple[str, dict[str, Any]]:
    """The repository's config that comes nearest, and what must be set in it."""
    arch = backbone["arch"]
    options: dict[str, Any] = {}
    if isinstance(arch, dict):
        # The dict takes the place of a name, into which it could not be merged.
        options["model.backbone.arch._delete_"] = True
        options |= {f"model.backbone.arch.{key}": value for key, value in arch.items()}
        options["model.head.in_channels"] = width
        arch = "tiny"
    name, window_size = f"dense_swin_{arch}", 7
    if arch == "base" and backbone["window_size"] == 12:
        name, window_size = f"{name}_384", 12
    of_config = dict(window_size=window_size, patch_size=4, in_channels=3, mlp_ratio=4.0)
    options |= {
        f"model.backbone.{key}": backbone[key]
        for key, value in of_config.items()
        if backbone[key] != value
    }
    if backbone["out_indices"] != (stages - 1,):
        options["model.backbone.out_indices"] = backbone["out_indices"]
    if classes not in (None, 1000):
        options["model.head.num_classes"] = classes
    return f"configs/imagenet/{name}_imagenet.py", options
