"""Small Mini-DeiTs and Mini-Swins, in official form and in this project's."""

from functools import cache

import official_mini_deit
import official_mini_swin
import torch
from torch import Tensor, nn

from halvit_mm.backbones import MiniDeiT, MiniSwin

StateDict = dict[str, Tensor]

SMALL_DEIT = dict(dim=24, depth=4, num_heads=3, img_size=48, patch_size=8)
SMALL_SWIN = dict(
    dim=8, depths=(2, 2, 4, 2), num_heads=(1, 2, 2, 4), share=(2, 2, 4, 2), img_size=96, window=3
)


#: The modules of the published models and the sizes of small ones.
FAMILIES = {"deit": (official_mini_deit, SMALL_DEIT), "swin": (official_mini_swin, SMALL_SWIN)}


def published(family: str, arch: str, **sizes) -> StateDict:
    """Official-format weights of a published model, in double precision."""
    module, _ = FAMILIES[family]
    return module.random_state_dict(**{**module.PUBLISHED[arch], **sizes})


def official(family: str, **options) -> StateDict:
    """Official-format weights of a small model for 10 classes, in single precision."""
    return dict(_official(family, **options))


@cache
def _official(family: str, **options) -> StateDict:
    module, sizes = FAMILIES[family]
    weights = module.random_state_dict(**{"num_classes": 10, **sizes, **options})
    return {name: v.float() if v.is_floating_point() else v for name, v in weights.items()}


def ours(backbone: nn.Module, classes: int = 10) -> StateDict:
    """Weights of this project's classifier with such a backbone, all of them random."""
    generator = torch.Generator().manual_seed(0)
    width = backbone.num_features[-1] if isinstance(backbone, MiniSwin) else backbone.embed_dims
    shapes = {f"backbone.{name}": v.shape for name, v in backbone.state_dict().items()}
    shapes |= {"head.fc.weight": (classes, width), "head.fc.bias": (classes,)}
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def small_deit(**options) -> MiniDeiT:
    arch = dict(dim=24, depth=4, num_heads=3)
    return MiniDeiT(**{**dict(arch=arch, img_size=48, patch_size=8), **options})


def small_swin(**options) -> MiniSwin:
    arch = {key: SMALL_SWIN[key] for key in ("dim", "depths", "num_heads")}
    return MiniSwin(**{**dict(arch=arch, share=(2, 2, 4, 2), window_size=3), **options})


def same(a: StateDict, b: StateDict) -> bool:
    """Whether names, types and every bit agree."""
    return a.keys() == b.keys() and all(
        value.dtype == b[name].dtype and torch.equal(value, b[name]) for name, value in a.items()
    )
