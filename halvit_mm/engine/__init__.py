"""Optimisation, hooks, and the running of training and testing."""

from .hooks import CheckpointGuardHook, EvaluationProgressHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .tta import InstanceTTAModel

__all__ = [
    "CheckpointGuardHook",
    "EvaluationProgressHook",
    "InstanceTTAModel",
    "LayerDecayOptimWrapperConstructor",
]
