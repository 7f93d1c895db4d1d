"""Optimisation, hooks, and the running of training and testing."""

from . import checkpoint_loaders  # noqa: F401  registers them
from .hooks import CheckpointGuardHook, EvaluationProgressHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .mixed_precision import BFloat16OptimWrapper
from .pictures import ClassPicturesHook
from .resuming import MidEpochCheckpointHook, ResumableEpochTrainLoop
from .tta import InstanceTTAModel

__all__ = [
    "BFloat16OptimWrapper",
    "CheckpointGuardHook",
    "ClassPicturesHook",
    "EvaluationProgressHook",
    "InstanceTTAModel",
    "LayerDecayOptimWrapperConstructor",
    "MidEpochCheckpointHook",
    "ResumableEpochTrainLoop",
]
