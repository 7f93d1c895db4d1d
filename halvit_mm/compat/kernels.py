"""What the stand-in operators share: torchvision's kernels and the precision they work in."""

from types import ModuleType

import torch
from torch import Tensor

from ..errors import UserError


class OperatorUnavailable(UserError, RuntimeError):
    """An operator of mmcv's that this installation cannot run. The message tells the cure."""


def load_torchvision() -> ModuleType:
    """The torchvision package.

    Imported on first use: it takes a while, and a broken one should stop only those who need it.

    Raises:
        OperatorUnavailable: torchvision is missing or does not load.
    """
    try:
        import torchvision
    except (ImportError, OSError, RuntimeError) as error:
        raise OperatorUnavailable(
            f"mmcv's operators need torchvision, which does not load ({error}); install the "
            f"release of torchvision that belongs to torch {torch.__version__}"
        ) from error
    return torchvision


def kernels() -> ModuleType:
    """The namespace of torchvision's compiled operators."""
    load_torchvision()
    return torch.ops.torchvision


def promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one precision in which every kernel works: single, or double if any is."""
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    return tuple(tensor.to(torch.float64 if double else torch.float32) for tensor in tensors)
