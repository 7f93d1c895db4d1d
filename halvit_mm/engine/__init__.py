"""Optimisation, hooks, and the running of training and testing."""

from . import checkpoint_loaders, config_names  # noqa: F401  the former registers them
from .bad_numbers import BadNumbersHook
from .hooks import CheckpointGuardHook, EvaluationProgressHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .mixed_precision import BFloat16OptimWrapper
from .norms import NormsHook
from .pictures import ClassPicturesHook
from .resuming import ResumableEpochTrainLoop, ResumableIterTrainLoop
from .saving import MidEpochCheckpointHook, SafeCheckpointHook
from .sharding import SharedWeightFSDPStrategy
from .tta import InstanceTTAModel

config_names.install()

__all__ = [
    "BFloat16OptimWrapper",
    "BadNumbersHook",
    "CheckpointGuardHook",
    "ClassPicturesHook",
    "EvaluationProgressHook",
    "InstanceTTAModel",
    "LayerDecayOptimWrapperConstructor",
    "MidEpochCheckpointHook",
    "NormsHook",
    "ResumableEpochTrainLoop",
    "ResumableIterTrainLoop",
    "SafeCheckpointHook",
    "SharedWeightFSDPStrategy",
]
