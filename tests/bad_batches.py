"""Hooks that spoil a training's numbers, and one that leaves out updates by itself."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn


class _Spoiler(Hook):
    """Does something in given iterations, from 1, of one process.

    Args:
        iterations: When.
        rank: In which process.
        value: What numbers become: ``"nan"`` or ``"inf"``.
    """

    priority = "VERY_HIGH"

    def __init__(self, *, iterations: Sequence[int], rank: int = 0, value: str = "nan") -> None:
        self.iterations = iterations
        self.rank = rank
        self.value = float(value)

    def _due(self, runner: Runner) -> bool:
        return runner.iter + 1 in self.iterations and get_rank() == self.rank


@HOOKS.register_module()
class BadImageHook(_Spoiler):
    """Makes the first image of a batch bad, and so its loss, gradients and running statistics."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict) -> None:
        if self._due(runner):
            data_batch["inputs"] = data_batch["inputs"].float()
            data_batch["inputs"][0] = self.value


@HOOKS.register_module()
class BadLossHook(_Spoiler):
    """Adds a bad constant to the loss, whose gradients stay as they are."""

    def before_train(self, runner: Runner) -> None:
        def spoil(model: nn.Module, inputs: Any, output: Any) -> Any:
            if model.training and self._due(runner):
                output = {name: loss + self.value for name, loss in output.items()}
            return output

        model = getattr(runner.model, "module", runner.model)
        model.register_forward_hook(spoil)


@HOOKS.register_module()
class BadGradientHook(_Spoiler):
    """Makes the gradient of one parameter bad, while the loss stays as it is."""

    def __init__(self, *, parameter: str, **options: Any) -> None:
        super().__init__(**options)
        self.parameter = parameter

    def before_train(self, runner: Runner) -> None:
        model = getattr(runner.model, "module", runner.model)
        model.get_parameter(self.parameter).register_hook(
            lambda gradient: gradient * self.value if self._due(runner) else gradient
        )


@HOOKS.register_module()
class BadWeightHook(_Spoiler):
    """Makes a number of the first parameter bad after an update."""

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if self._due(runner):
            next(runner.model.parameters()).data.view(-1)[0] = self.value


@HOOKS.register_module()
class NoStepHook(_Spoiler):
    """Replaces the optimiser's step by none at all."""

    def before_train(self, runner: Runner) -> None:
        step: Callable[..., None] = runner.optim_wrapper.optimizer.step
        runner.optim_wrapper.optimizer.step = lambda *args, **kwargs: (
            None if self._due(runner) else step(*args, **kwargs)
        )


@HOOKS.register_module()
class WriteWeightsHook(Hook):
    """Writes each process's weights after each iteration to ``<file>.<rank>``."""

    def __init__(self, *, file: str) -> None:
        self.file = file

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        torch.save((runner.iter + 1, runner.model.state_dict()), f"{self.file}.{get_rank()}")


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(AmpOptimWrapper):
    """mmengine's float16 with a scaler of gradients, which it allows on accelerators only."""

    def __init__(self, *, init_scale: float, **options: Any) -> None:
        OptimWrapper.__init__(self, **options)
        self.loss_scaler = torch.amp.GradScaler(
            device="cpu", init_scale=init_scale, growth_interval=10**6
        )
        self._scale_update_param = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with (
            OptimWrapper.optim_context(self, model),
            torch.autocast("cpu", dtype=torch.float16),
        ):
            yield
