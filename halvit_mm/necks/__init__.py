"""Necks for mmdet, registered in mmengine's root registry."""

from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ["SimpleFeaturePyramid"]
