"""A say in each update of the weights, between the gradients and the optimiser."""

from collections.abc import Callable, Iterator

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor

Question = Callable[[OptimWrapper], bool]


def ask_before_steps(optim_wrapper: OptimWrapper | OptimWrapperDict, may_step: Question) -> None:
    """Asks before each update of the weights whether it is to be.

    mmengine has no hook between the last backward pass of an update and its step. Where the answer
    is no, the wrapper goes on as after a step: it drops the gradients and counts the iteration.

    Args:
        optim_wrapper: The training's wrapper; its ``step`` is replaced.
        may_step: Called when all gradients of an update are there: not yet clipped, and by a
            ``GradScaler`` still scaled. Of several questions the last one comes first, and the
            others come only if it says yes.
    """
    wrappers = optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else ()
    for wrapper in wrappers or (optim_wrapper,):
        _ask(wrapper, may_step)


def gradients(wrapper: OptimWrapper) -> Iterator[tuple[Tensor, Tensor]]:
    """The parameters that a wrapper's optimiser moves, each with its gradient."""
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                yield parameter, parameter.grad


def scale_of(wrapper: OptimWrapper) -> float | None:
    """By what a ``GradScaler`` has multiplied the gradients; None where there is none."""
    scaler = getattr(wrapper, "loss_scaler", None)
    return scaler.get_scale() if scaler is not None and scaler.is_enabled() else None


def _ask(wrapper: OptimWrapper, may_step: Question) -> None:
    inner = wrapper.step

    def step(**kwargs) -> None:
        if may_step(wrapper):
            inner(**kwargs)

    wrapper.step = step
