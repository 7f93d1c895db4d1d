"""Weights, gradients and states of the optimiser divided among the processes (FSDP).

mmengine wraps a model by PyTorch's FullyShardedDataParallel, in units: each process keeps a share
of a unit's weights, and they gather them while the unit runs. A shared weight may serve several
times within a unit, but no part of the model outside may reach for it.
"""

from importlib.util import find_spec
from typing import Any

from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import STRATEGIES
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from ..datasets.check_classes import type_name
from ..errors import UserError
from ..layers import (
    DenseStage,
    MultiplexedBlock,
    TiedResNetStage,
    TiedResNeXtStage,
    TransformerBlock,
)

#: Modules within which every use of their weights lies, W and Wᵀ, and all steps of a shared block.
UNITS = (DenseStage, MultiplexedBlock, TiedResNetStage, TiedResNeXtStage, TransformerBlock)

_DEEPSPEED = "DeepSpeedStrategy"
#: Hooks that need what DeepSpeed keeps to itself: the optimiser's states and single gradients.
_STATEFUL = ("MidEpochCheckpointHook", "BadNumbersHook")


def set_strategy(cfg: Config, launcher: str) -> None:
    """Fits a config to its ``strategy``, one of mmengine's ways to divide a training.

    Args:
        cfg: A config of a training; it is changed.
        launcher: What started the processes; ``"none"`` for a single one.

    Raises:
        UserError: The strategy would have no effect, or cannot do what the config asks for.
    """
    if not cfg.get("strategy"):
        return
    name = type_name(cfg.strategy)
    if cfg.get("runner_type") != "FlexibleRunner":
        raise UserError(f'strategy.type={name} needs runner_type="FlexibleRunner": set it as well')
    if name not in (_DEEPSPEED, "FSDPStrategy", SharedWeightFSDPStrategy.__name__):
        return
    if name == _DEEPSPEED and find_spec("deepspeed") is None:
        raise UserError(
            f"strategy.type={name} needs DeepSpeed, which is not installed: install a release that "
            "mmengine can import (0.19 is too new for it), or take configs/_base_/fsdp.py"
        )
    if launcher == "none":
        raise UserError(
            f"strategy.type={name} divides a training among processes, and there is one: start "
            "several by tools/dist_train.sh, or take a config without strategy"
        )
    if any(type_name(hook).endswith("EMAHook") for hook in cfg.get("custom_hooks") or ()):
        raise UserError(
            f"custom_hooks: EMAHook averages whole weights, which strategy.type={name} divides: "
            "remove one of the two"
        )
    if name == _DEEPSPEED:
        _set_deepspeed(cfg)


def _set_deepspeed(cfg: Config) -> None:
    """Hands over to DeepSpeed what mmengine's wrapper of the optimiser does otherwise.

    Its checkpoints with states of the optimiser are folders that hooks do not see, and so there are
    none: what is saved are weights, which every tool here loads.
    """
    if cfg.get("resume"):
        raise UserError(
            "--resume: DeepSpeed's checkpoints here are of weights alone; start from one by "
            "--load-from FILE, or divide the training by configs/_base_/fsdp.py"
        )
    wrapper = cfg.optim_wrapper
    clip = wrapper.pop("clip_grad", None)
    if clip is not None:
        cfg.strategy.setdefault("gradient_clipping", clip["max_norm"])
    counts = wrapper.pop("accumulative_counts", 1)
    cfg.strategy.setdefault("gradient_accumulation_steps", counts)
    if type_name(wrapper) == "BFloat16OptimWrapper":
        cfg.strategy.setdefault("bf16", dict(enabled=True))
        cfg.strategy.setdefault("inputs_to_half", ["inputs"])
    wrapper.type = "DeepSpeedOptimWrapper"
    cfg.custom_hooks = [
        hook for hook in cfg.get("custom_hooks") or () if type_name(hook) not in _STATEFUL
    ]
    cfg.merge_from_dict({"default_hooks.checkpoint.save_optimizer": False})


@STRATEGIES.register_module()
class SharedWeightFSDPStrategy(FSDPStrategy):
    """mmengine's FSDPStrategy with units that fit shared weights, on GPUs and on the CPU.

    Beyond the units, it builds the optimiser from whole weights: shards are vectors, which rules
    such as ``flat_decay_mult`` would take for biases. It clips gradients by the norm of all shards,
    and writes checkpoints of whole weights, which load into an ordinary model.

    Args:
        state_dict_cfg: ``"full"`` for one file with whole weights; see mmengine for others.
        options: See mmengine's FSDPStrategy.
    """

    def __init__(self, *, state_dict_cfg: str | dict = "full", **options: Any) -> None:
        super().__init__(state_dict_cfg=state_dict_cfg, **options)
        if get_device() == "cpu":
            # Weights to be moved to where they are would not be copied, and then be freed.
            for config in (self.state_dict_config, self.optim_state_dict_config):
                config.offload_to_cpu = False

    def prepare(
        self,
        model: nn.Module | dict,
        *,
        optim_wrapper: OptimWrapper | dict | None = None,
        **options: Any,
    ) -> Any:
        """Builds what mmengine's strategies do: model, optimiser, schedulers."""
        if isinstance(optim_wrapper, dict) and not self._prepared:
            model = self.build_model(model)
            if type_name(optim_wrapper) == "AmpOptimWrapper":
                optim_wrapper.setdefault("use_fsdp", True)  # whose scaler asks all processes
            optim_wrapper = build_optim_wrapper(model, optim_wrapper)
        return super().prepare(model, optim_wrapper=optim_wrapper, **options)

    def build_optim_wrapper(
        self, optim_wrapper: OptimWrapper, model: nn.Module | None = None
    ) -> OptimWrapper:
        """Exchanges the weights of an optimiser for this process's shards of them."""
        prefix = "_fsdp_wrapped_module."
        shards = {name.replace(prefix, ""): p for name, p in model.named_parameters()}
        for group in optim_wrapper.optimizer.param_groups:
            group["params"] = [shards[self.id_to_name[id(p)]] for p in group["params"]]
        if (optim_wrapper.clip_grad_kwargs or {}).keys() <= {"max_norm", "norm_type"}:
            optim_wrapper.clip_func = lambda _, **norm: model.clip_grad_norm_(**norm)
        return optim_wrapper

    def optim_state_dict(self) -> dict:
        """The whole states of the optimiser, by the names of the weights; on the first process."""
        return FullyShardedDataParallel.optim_state_dict(self.model, self.optim_wrapper.optimizer)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Takes this process's share of what :meth:`optim_state_dict` gave."""
        self.optim_wrapper.load_state_dict(
            FullyShardedDataParallel.optim_state_dict_to_load(
                self.model, self.optim_wrapper.optimizer, state_dict
            )
        )

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        wrapper: dict[str, Any] = {"auto_wrap_policy": ModuleWrapPolicy(UNITS)}
        if get_device() == "cpu":
            wrapper["device_id"] = "cpu"
        self.model_wrapper = wrapper | (self.model_wrapper or {})
        return super()._wrap_model(model)
