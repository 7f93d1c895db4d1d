"""Distillation: a small classifier learns from a trained one of mmpretrain's.

It is not imported with :mod:`halvit_mm`, as it needs mmpretrain: a config that trains a
``DistilledClassifier`` says ``custom_imports = dict(imports=["halvit_mm.distillation"])``.
"""

from .classifier import DistilledClassifier
from .losses import attention_relation_loss, hidden_relation_loss, prediction_loss
from .teacher import Teacher

__all__ = [
    "DistilledClassifier",
    "Teacher",
    "attention_relation_loss",
    "hidden_relation_loss",
    "prediction_loss",
]
