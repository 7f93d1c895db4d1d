"""Mixed precision: activations in 16 bits, weights, their gradients and the optimiser in 32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast
from torch import nn

from ..datasets.check_classes import type_name
from ..errors import UserError

DTYPES = ("float16", "bfloat16")


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs the model in bfloat16, on a GPU or a CPU.

    bfloat16 has float32's range, so that gradients need no scaling as in mmengine's
    AmpOptimWrapper, which also refuses a CPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """What a training step of ``model`` runs in."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


def set_mixed_precision(cfg: Config, dtype: str | None) -> None:
    """Sets the wrapper of the optimiser for mixed precision, if there is to be any.

    Args:
        cfg: A config; it is changed.
        dtype: ``"float16"`` or ``"bfloat16"``; None leaves it to the config, which asks for mixed
            precision by ``optim_wrapper.type="AmpOptimWrapper"`` with a ``dtype``.

    Raises:
        UserError: The device cannot compute in this type, or it is another one.
    """
    wrapper = cfg.optim_wrapper
    option = f"--amp {dtype}"
    if dtype is None:
        if type_name(wrapper) != AmpOptimWrapper.__name__:
            return
        dtype = str(wrapper.get("dtype") or "float16").removeprefix("torch.")
        option = f"optim_wrapper.dtype={dtype}"
    if dtype not in DTYPES:
        raise UserError(f"{option}: mixed precision is in {' or '.join(DTYPES)}")
    _check_device(dtype, option)
    wrapper.pop("dtype", None)
    if dtype == "bfloat16":
        wrapper.type = BFloat16OptimWrapper.__name__
        wrapper.pop("loss_scale", None)
    else:
        wrapper.type = AmpOptimWrapper.__name__
        wrapper.dtype = dtype
        wrapper.setdefault("loss_scale", "dynamic")


def _check_device(dtype: str, option: str) -> None:
    device = get_device()
    if dtype == "float16" and device == "cpu":
        raise UserError(
            f"{option} needs a GPU and there is none: take --amp bfloat16, or leave it out"
        )
    if (
        dtype == "bfloat16"
        and device == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(
            f"{option}: {torch.cuda.get_device_name()} has no bfloat16, which GPUs have since "
            "Ampere (A100, RTX 30): take --amp float16, or leave it out"
        )
