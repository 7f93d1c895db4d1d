"""Vision backbones with half of the weights, for the OpenMMLab stack.

Importing this package registers its backbones, necks, hooks and datasets in mmengine's root
registries, so that ``custom_imports = dict(imports=["halvit_mm"])`` is all a config needs.
``halvit_mm.layers`` is plain PyTorch and works where OpenMMLab is not installed.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("mmengine") is not None:
    # The operators come first: mmdet imports mmcv.ops as soon as it is imported.
    from . import compat

    compat.install()
    from . import backbones, checkpoints, datasets, engine, necks  # noqa: F401


def __getattr__(name: str) -> type:
    """``halvit_mm.Detector`` and ``halvit_mm.Classifier``, imported when they are asked for."""
    if name not in ("Detector", "Classifier"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import inference

    return getattr(inference, name)
