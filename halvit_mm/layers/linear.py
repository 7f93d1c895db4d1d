"""Linear layers by the quicker of two libraries.

On x86 CPUs PyTorch multiplies fp32 matrices by MKL, and adds a bias by copying it all over the
result first. oneDNN, which PyTorch ships as well and uses for compiled models and bfloat16, does
both at once, takes a weight or its transpose as it lies, and is a tenth quicker on the CPUs that
``docs/performance.md`` names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: oneDNN's linear layer with an activation behind it. PyTorch does not document it, so whatever
#: it cannot do, and any version without it, is left to ``F.linear``.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch._C._has_mkldnn else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """``x weightᵀ + bias``, and its GELU if asked for.

    Args:
        x: (…, in).
        weight: (out, in); the transpose of a weight costs no copy.
        bias: (out).
        gelu: Applies the exact GELU to the result.

    Returns:
        (…, out).
    """
    if not _onednn_can(x, weight):
        x = F.linear(x, weight, bias)
        return F.gelu(x) if gelu else x
    learns = (t is not None and t.requires_grad for t in (x, weight, bias))
    if torch.is_grad_enabled() and any(learns):
        x = _OneDNNLinear.apply(x, weight, bias)
        return F.gelu(x) if gelu else x
    return _ONEDNN(x, weight, bias, *(("gelu", [], "none") if gelu else ("none", [], "")))


def _onednn_can(x: Tensor, weight: Tensor) -> bool:
    return (
        _ONEDNN is not None
        and type(x) is Tensor  # no tracer's, no distributed or quantised tensor
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and runs_as_written()
    )


def runs_as_written() -> bool:
    """Whether operators just run, and nothing takes them down, to compile, export or transform.

    Compilers choose quick operators for themselves, and exporters know documented ones only.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
    )


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _ONEDNN(x, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            linear(grad, weight.t()) if of_x else None,
            weight_gradient(grad, x) if of_weight else None,
            rows(grad).sum(0) if of_bias else None,
        )


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """``gradᵀ x`` over all tokens, (…, out) and (…, in) → (out, in)."""
    return linear(rows(grad).t(), rows(x).t())


def rows(x: Tensor) -> Tensor:
    """(…, channels) → (tokens, channels)."""
    return x.reshape(-1, x.shape[-1])


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)."""
        return linear(x, self.weight, self.bias)
