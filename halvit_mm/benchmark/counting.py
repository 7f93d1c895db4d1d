"""Floating point operations and bytes that some computation takes."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry


def _linear_flops(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor) -> int:
    return 2 * x.numel() * weight.shape[0]


def _convolution_flops(x: Tensor, weight: Tensor, *_: Any, out_val: Tensor) -> int:
    return conv_flop_count(x.shape, weight.shape, out_val.shape)


#: FLOPs of an operation, from its arguments and its result.
_FORMULAS = {**flop_registry, torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}
for _name, _formula in (
    ("_linear_pointwise", _linear_flops),
    ("_convolution_pointwise", _convolution_flops),
):
    # oneDNN's, which PyTorch's table lacks.
    if (_packet := getattr(torch.ops.mkldnn, _name, None)) is not None:
        _FORMULAS[_packet] = _formula


def count_flops(compute: Callable[[], Any]) -> int:
    """Floating point operations of matrix products and convolutions, also of backward passes.

    A multiplication and its addition are two. Attention counts by its two products.
    """
    # The formulas lack the fused attention of CPUs, so it is counted as the products it stands for.
    with sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
        compute()
    return counter.flops


def count_moved_bytes(compute: Callable[[], Any]) -> int:
    """Bytes that matrix products, convolutions and attention read and write.

    Operands and results count once for each operation, as if nothing stayed in a cache between
    operations and everything within one. What lies between them, such as norms and activations,
    counts nothing, so this is a lower bound of what is moved without caches.
    """
    with _Counter() as counter:
        compute()
    return counter.moved


class _Counter(TorchDispatchMode):
    """Sums FLOPs, and the sizes of operands and results, of the operations that have FLOPs.

    PyTorch's own counter follows modules with hooks, which a backward pass within a forward pass
    does not stand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        counts = packet in _FORMULAS or _is_fused_attention(packet.__name__)
        if not counts:
            # In inference mode composed operations, such as a linear layer, arrive whole.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if packet in _FORMULAS:
            self.flops += _FORMULAS[packet](*args, **kwargs, out_val=result)
        if counts:
            tensors = tree_leaves((args, kwargs, result))
            self.moved += sum(t.nbytes for t in tensors if isinstance(t, Tensor))
        return result


def _is_fused_attention(name: str) -> bool:
    return name.startswith("_scaled_dot_product") and "math" not in name


def gemm_rate(dtype: torch.dtype, device: str, *, side: int = 2048, repeats: int = 5) -> float:
    """The best rate of a square matrix product, in floating point operations a second."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / _best_time(lambda: a @ b, device, repeats)


def bandwidth(device: str, *, megabytes: int = 256, repeats: int = 5) -> float:
    """The best rate of copying a large tensor, read and written bytes a second together."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_time(lambda: target.copy_(source), device, repeats)


def _best_time(compute: Callable[[], Any], device: str, repeats: int) -> float:
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = float("inf")
    for _ in range(repeats + 1):  # the first may be slow and then does not count
        synchronize()
        start = time.perf_counter()
        compute()
        synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def roofline(threads: int, device: str) -> dict[str, float]:
    """What this machine reaches a second: operations in ``fp32`` and ``bf16``, and ``bytes``."""
    torch.set_num_threads(threads)
    return {
        "fp32": gemm_rate(torch.float32, device),
        "bf16": gemm_rate(torch.bfloat16, device),
        "bytes": bandwidth(device),
    }
