"""Backbones for mmdet and mmpretrain, registered in mmengine's root registry."""

from .half_resnet import HalfResNet, HalfResNeXt
from .halvit import HaLViT

__all__ = ["HaLViT", "HalfResNeXt", "HalfResNet"]
