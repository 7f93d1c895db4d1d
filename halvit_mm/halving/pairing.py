"""Which dense pieces a half-weight backbone's pieces stand for, by its class."""

from importlib import import_module

from torch import nn

from ..errors import UserError
from .units import Pairing

#: Classes of backbones, subclasses included, and who pairs them.
FAMILIES = {
    "HaLViT": ("vits", "pair_halvit"),
    "MiniDeiT": ("mini_deit", "pair_mini_deit"),
    "MiniSwin": ("mini_swin", "pair_mini_swin"),
    "HalfResNet": ("resnets", "pair_resnet"),
}


def pair(half: nn.Module, dense: nn.Module, size: tuple[int, int]) -> Pairing:
    """Pairs a half-weight backbone with its dense twin and copies what both have.

    Args:
        half: A backbone of this project; it is changed in place.
        dense: The same class without shared weights.
        size: Height and width of the images in pixels.

    Raises:
        UserError: The two cannot be paired, or the class has no half-weight form.
    """
    for family in type(half).mro():
        if family.__name__ in FAMILIES:
            module, function = FAMILIES[family.__name__]
            return getattr(import_module(f".{module}", __package__), function)(half, dense, size)
    raise UserError(
        f"the backbone is a {type(half).__name__}, which cannot be halved: take one of "
        + ", ".join(FAMILIES)
    )
