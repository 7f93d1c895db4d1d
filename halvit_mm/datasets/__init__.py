"""Data sets that a command makes, one of images with labels, and the check before training starts.

mmdet's own ``CocoDataset`` reads the sets that are made.
"""

from .labelled_images import LabelledImages

__all__ = ["LabelledImages"]
