"""Backbones for mmdet and mmpretrain, registered in mmengine's root registry."""

from .half_resnet import HalfResNet, HalfResNeXt
from .halvit import HaLViT
from .mini_deit import MiniDeiT
from .mini_swin import MiniSwin

__all__ = ["HaLViT", "HalfResNeXt", "HalfResNet", "MiniDeiT", "MiniSwin"]
