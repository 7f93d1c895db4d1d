"""Backbones for mmdet and mmpretrain, registered in mmengine's root registry."""

from .halvit import HaLViT

__all__ = ["HaLViT"]
