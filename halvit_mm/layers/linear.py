"""Linear layers by the quicker of two libraries.

On x86 CPUs PyTorch multiplies fp32 matrices by MKL, and adds a bias by copying it all over the
result first. oneDNN, which PyTorch ships as well and uses for compiled models and bfloat16, does
both at once, and an activation too, takes a weight or its transpose as it lies, and is a tenth
quicker on the CPU that ``docs/performance.md`` names.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

#: oneDNN's linear layer with an activation behind it. PyTorch does not document it, so any version
#: without it, and whatever it cannot do, is left to ``F.linear``.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch._C._has_mkldnn else None
_ONEDNN_DTYPES = {torch.float32}
if _ONEDNN is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _ONEDNN_DTYPES.add(torch.bfloat16)
#: Multiply-accumulates below which MKL is as quick or quicker.
_LEAST_PRODUCTS = 2**25


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """``x weightᵀ + bias``, and its GELU if asked for.

    Args:
        x: (…, in).
        weight: (out, in); the transpose of a weight costs no copy.
        bias: (out).
        gelu: Applies the exact GELU to the result.

    Returns:
        (…, out).

    Raises:
        TypeError: ``x`` holds numbers of another type than the weight.
        ValueError: ``x`` has another number of channels.
    """
    x, weight, bias = autocast(x, weight, bias)
    if runs_as_written():
        check_width(x, weight.shape[1])
        if x.dtype != weight.dtype:
            raise TypeError(
                f"an input of {x.dtype} does not fit a weight of {weight.dtype}: convert one of "
                "them by .to(), or let torch.autocast do it"
            )
    if not _onednn_can(x, weight):
        x = F.linear(x, weight, bias)
        return F.gelu(x) if gelu else x
    learns = (t is not None and t.requires_grad for t in (x, weight, bias))
    if torch.is_grad_enabled() and any(learns):
        x = _OneDNNLinear.apply(x, weight, bias)
        return F.gelu(x) if gelu else x
    return _ONEDNN(x, weight, bias, *(("gelu", [], "none") if gelu else ("none", [], "")))


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors as autocast would give them to a matrix product.

    Autocast by itself casts a weight once, but each transpose and each slice of it again.
    """
    if not runs_as_written():
        return tensors  # compilers cast once by themselves, and cannot follow the next question
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    wide = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return tensors if wide else tuple(t if t is None else t.to(dtype) for t in tensors)


def runs_as_written() -> bool:
    """Whether operators just run, and nothing takes them down, to compile, export or transform.

    Compilers choose quick operators for themselves, and exporters know documented ones only.
    """
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed())


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation runs operators in ways of its own.

    Hand-written backward passes, recomputation and PyTorch's fused attention know neither.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_exporting() -> bool:
    """Whether ``torch.export`` makes a graph; before torch 2.7 compilers count as well."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def check_width(x: Tensor, width: int) -> None:
    """Refuses an input whose last dimension is another than ``width``.

    Raises:
        ValueError: It is.
    """
    if x.shape[-1:] != (width,):
        raise ValueError(
            f"an input of shape {tuple(x.shape)} does not fit: its last dimension must be {width}"
        )


def _onednn_can(x: Tensor, weight: Tensor) -> bool:
    return (
        _ONEDNN is not None
        and type(x) is Tensor  # no tracer's, no distributed or quantised tensor
        and x.dtype == weight.dtype
        and x.dtype in _ONEDNN_DTYPES
        and x.device.type == "cpu"
        and x.numel() * len(weight) >= _LEAST_PRODUCTS
        and 1 in weight.stride()
        and 0 not in weight.stride()  # an expanded tensor, which oneDNN is very slow with
        and torch.backends.mkldnn.enabled
        and runs_as_written()
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
    grad, x = rows(grad).t(), rows(x)
    # In fp32 oneDNN is quicker even with the copy that it makes of gradᵀ.
    return linear(grad, x.t()) if x.dtype == torch.float32 else grad @ x


def rows(x: Tensor) -> Tensor:
    """(…, channels) → (tokens, channels)."""
    return x.reshape(-1, x.shape[-1])


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)."""
        return linear(x, self.weight, self.bias)
