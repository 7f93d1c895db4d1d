"""Activation checkpointing that leaves running statistics alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, *inputs: Any, method: Callable[..., Any] | None = None) -> Any:
    """Runs a module without keeping its activations; the backward pass computes them again.

    The second run would move BatchNorm's running statistics a second time. Here it works on copies
    of the module's buffers, so that training with and without checkpointing is the same.

    Args:
        module: The module.
        inputs: What it is called with.
        method: One of the module's methods to call instead of the module.
    """
    if torch.compiler.is_compiling():
        # A compiled graph writes running statistics once, whatever it computes again.
        return checkpoint(method or module, *inputs, use_reentrant=False)
    return checkpoint(
        method or module,
        *inputs,
        # The re-entrant form would mark a shared weight ready once for each use under DDP.
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _buffers_set_aside(module)),
    )


@contextmanager
def _buffers_set_aside(module: nn.Module) -> Iterator[None]:
    kept = [(child, child._buffers) for child in module.modules()]
    for child, buffers in kept:
        child._buffers = {name: b if b is None else b.clone() for name, b in buffers.items()}
    try:
        yield
    finally:
        for child, buffers in kept:
            child._buffers = buffers
