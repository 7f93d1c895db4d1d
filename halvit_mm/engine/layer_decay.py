"""Layer-wise learning rate decay for backbones inside detectors and classifiers alike."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..errors import UserError

OPTION = "optim_wrapper.paramwise_cfg.layer_decay_rate"


def decayed_scale(rate: float, depth: int, num_layers: int) -> float:
    """Factor of the learning rate at a depth: 1 at the last one, ``rate`` less at each before.

    Args:
        rate: Decay from one layer to the one before it, in (0, 1].
        depth: 0 for the embeddings up to ``num_layers - 1`` for what follows the blocks.
        num_layers: Number of depths.
    """
    return rate ** (num_layers - depth - 1)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Lets a backbone's early layers learn more slowly than its late ones.

    ``paramwise_cfg`` takes ``layer_decay_rate`` beside all that mmengine's constructor takes
    (``flat_decay_mult``, ``norm_decay_mult``, ``custom_keys`` with ``lr_mult`` …); the factors
    multiply. The depths come from the backbone: the innermost module with
    ``get_layer_depth(param_name, prefix) -> (depth, num_layers)``, mmpretrain's protocol. What lies
    outside keeps its learning rate.

    Parameters of equal options share a group, so the optimiser has few of them; the first group
    has the highest learning rate. A parameter under two names counts once.

    Raises:
        UserError: The rate is missing or not in (0, 1], no module offers depths, or the optimiser
            has no ``lr``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(self.rate, int | float) or not 0 < self.rate <= 1:
            raise UserError(f"{OPTION}={self.rate} must be a number above 0 and up to 1")
        if self.base_lr is None:
            raise UserError(f"{OPTION} needs optim_wrapper.optimizer.lr: set it")

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: bool | None = None,
    ) -> None:
        """Appends the parameter groups of ``module`` to ``params``.

        mmengine's version calls itself for the children, one group a parameter; the outermost call
        scales these and merges them.
        """
        if prefix:
            super().add_params(params, module, prefix, is_dcn_module)
            return
        single: list[dict] = []
        with _without_lines_per_parameter(MMLogger.get_current_instance()):
            super().add_params(single, module)
        params.extend(self._merge(single, _depths(module)))
        _log_table(params, module, self.rate)

    def _merge(self, single: list[dict], depths: dict[int, tuple[int, int]]) -> list[dict]:
        merged: dict[str, dict] = {}
        seen = set()
        for group in single:
            (param,) = group["params"]
            if id(param) in seen:
                continue
            seen.add(id(param))
            scale = decayed_scale(self.rate, *depths[id(param)]) if id(param) in depths else 1.0
            # The multipliers of custom_keys have done their work.
            options = {
                k: v for k, v in group.items() if k not in ("params", "lr_mult", "decay_mult")
            }
            options["lr"] = options.get("lr", self.base_lr) * scale
            if self.base_wd is not None:
                options.setdefault("weight_decay", self.base_wd)
            key = repr(sorted(options.items()))
            merged.setdefault(key, {"params": [], **options})["params"].append(param)
        return sorted(merged.values(), key=lambda g: (-g["lr"], -g.get("weight_decay", 0.0)))


def _depths(model: nn.Module) -> dict[int, tuple[int, int]]:
    """(depth, number of depths) of each parameter in the backbone, by the parameter's id."""
    offering = {
        name for name, module in model.named_modules() if hasattr(module, "get_layer_depth")
    }
    if not offering:
        raise UserError(
            f"{OPTION}: no part of {type(model).__name__} has get_layer_depth; give it a backbone "
            "that has one, such as HaLViT, or remove the optim_wrapper's constructor"
        )
    depths = {}
    for name in offering:
        prefix = f"{name}." if name else ""
        # A classifier only passes the question on to its backbone.
        if any(other != name and other.startswith(prefix) for other in offering):
            continue
        backbone = model.get_submodule(name)
        for parameter, value in backbone.named_parameters(remove_duplicate=False):
            depths[id(value)] = backbone.get_layer_depth(prefix + parameter, prefix)
    return depths


@contextmanager
def _without_lines_per_parameter(logger: logging.Logger) -> Iterator[None]:
    """mmengine logs each option of each parameter, and a warning for each frozen one."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)


def _log_table(groups: list[dict], model: nn.Module, rate: float) -> None:
    lines = [
        f"layer-wise learning rate decay {rate}, {len(groups)} parameter groups:",
        f"{'lr':>12} {'weight decay':>13} {'tensors':>8} {'parameters':>12}",
    ]
    for group in groups:
        lines.append(
            f"{group['lr']:12.3g} {group.get('weight_decay', 0.0):13.3g} "
            f"{len(group['params']):8d} {sum(p.numel() for p in group['params']):12,d}"
        )
    frozen = [p for p in model.parameters() if not p.requires_grad]
    if frozen:
        lines.append(f"{'frozen':>26} {len(frozen):8d} {sum(p.numel() for p in frozen):12,d}")
    MMLogger.get_current_instance().info("\n".join(lines))
