"""Models without weights: shapes only, on PyTorch's meta device, where nothing is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..engine.config_errors import config_errors
from ..errors import UserError


def build_without_weights(cfg: Config) -> nn.Module:
    """Builds a config's model in evaluation mode, in no time and memory.

    Nothing is initialised and no checkpoint is read.

    Args:
        cfg: A config of a detector of mmdet or a classifier of mmpretrain; it is not changed.

    Raises:
        UserError: The config has no model, the model is neither of these, or it cannot be built.
    """
    model = cfg.get("model")
    if not isinstance(model, dict) or "type" not in model:
        raise UserError("this config has no model; name that of a detector or a classifier")
    if not isinstance(model.get("backbone"), dict):
        raise UserError(
            f"model.type={model.type} has no backbone; name the config of a detector of mmdet or "
            "a classifier of mmpretrain"
        )
    scope = DefaultScope.overwrite_default_scope(cfg.get("default_scope"))
    with config_errors(cfg), scope, _parameters_on_meta():
        return MODELS.build(deepcopy(model)).to("meta").eval()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Takes the values from every parameter as soon as a module gets it, before it is initialised.

    All else is made as usual: constructors compute with tensors that are no parameters, such as
    rates of stochastic depth, and read the results, which ``torch.device("meta")`` forbids.
    """
    # A parameter that has two names must stay one; the originals are kept, as ids are used again.
    replaced: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}

    def replace(module: nn.Module, name: str, param: nn.Parameter | None) -> nn.Parameter | None:
        if param is None or param.is_meta:
            return None  # leaves it as it is
        if id(param) not in replaced:
            on_meta = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
            replaced[id(param)] = param, on_meta
        return replaced[id(param)][1]

    handle = register_module_parameter_registration_hook(replace)
    try:
        yield
    finally:
        handle.remove()
