"""Activation checkpointing that leaves running statistics alone."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .linear import is_transformed


def checkpointed(module: nn.Module, *inputs: Any, method: Callable[..., Any] | None = None) -> Any:
    """Runs a module without keeping its activations; the backward pass computes them again.

    The second run would move BatchNorm's running statistics a second time. Here it works on copies
    of the module's buffers, so that training with and without checkpointing is the same.

    Args:
        module: The module.
        inputs: What it is called with.
        method: One of the module's methods to call instead of the module.
    """
    if is_transformed():
        return (method or module)(*inputs)  # transforms know no recomputation
    if torch.compiler.is_compiling():
        # A compiled graph writes running statistics once, whatever it computes again.
        return checkpoint(method or module, *inputs, use_reentrant=False)
    return checkpoint(
        method or module,
        *inputs,
        # The re-entrant form would mark a shared weight ready once for each use under DDP.
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _BuffersSetAside(module)),
    )


class _BuffersSetAside:
    """Lets a module work on copies of its buffers.

    It is entered anew by each backward pass that computes the module again.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.kept = [(child, child._buffers) for child in self.module.modules()]
        for child, buffers in self.kept:
            copies = {name: b if b is None else b.clone() for name, b in buffers.items()}
            child._buffers = copies

    def __exit__(self, *error: object) -> None:
        for child, buffers in self.kept:
            child._buffers = buffers
