"""Norms of gradients and weights, beside the losses in the log."""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from ..layers.dense import DenseAttention, DenseFFN
from ..layers.tied import TiedAttention, TiedFFN
from .steps import ask_before_steps, gradients, scale_of

_LAYERS = (TiedFFN, TiedAttention, DenseFFN, DenseAttention)


@HOOKS.register_module()
class NormsHook(Hook):
    """Logs Euclidean norms: of all gradients and weights, and of those that can be tied.

    These are the matrices of attention and feed-forward layers: in a HaLViT the ones that serve
    twice, in its dense twin the ones in their place. Gradients are those of an update, before they
    are clipped, and without a ``GradScaler``'s factor. The log's names: ``gradient_norm``,
    ``layers_gradient_norm``, ``weight_norm``, ``layers_weight_norm``.

    Args:
        interval: Number of updates from one measurement to the next; each waits for the device.
    """

    def __init__(self, *, interval: int = 10) -> None:
        self.interval = interval
        self._updates = 0

    def before_train(self, runner: Runner) -> None:
        """Finds the weights to measure, and asks to be asked before each update."""
        self._hub = runner.message_hub
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._of_layers = {
            id(parameter)
            for layer in model.modules()
            if isinstance(layer, _LAYERS)
            for parameter in layer.parameters()
            if parameter.ndim > 1
        }
        ask_before_steps(runner.optim_wrapper, self._measure)

    def _measure(self, wrapper: OptimWrapper) -> bool:
        """Measures on the way to an update, to which it has no objection."""
        self._updates += 1
        if self._updates % self.interval == 0:
            scale = scale_of(wrapper) or 1.0
            for name, value in self._norms(wrapper).items():
                factor = 1 / scale if "gradient" in name else 1
                self._hub.update_scalar(f"train/{name}", factor * float(value))
        return True

    def _norms(self, wrapper: OptimWrapper) -> dict[str, Any]:
        given = list(gradients(wrapper))
        return {
            "gradient_norm": _norm(g for _, g in given),
            "layers_gradient_norm": _norm(g for p, g in given if id(p) in self._of_layers),
            "weight_norm": _norm(self._weights),
            "layers_weight_norm": _norm(p for p in self._weights if id(p) in self._of_layers),
        }


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(tensor.detach(), dtype=torch.float32) for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(0.0)
