"""Deformable convolution, both versions, under the names and arguments of ``mmcv._ext``.

Shapes: ``input`` (B, C, H, W), ``weight`` (O, C / group, kH, kW), ``bias`` (O), ``offset``
(B, 2·D·kH·kW, H', W') with y before x, ``mask`` (B, D·kH·kW, H', W'), ``output`` (B, O, H', W'),
where D is ``deformable_group``; a gradient has its tensor's shape. ``output`` and the gradients are
filled in. The buffers ``columns`` and ``ones``, ``im2col_step`` and the kernel's size, which
``weight`` tells, are not needed here. torchvision computes all gradients in one call.

Sources: Dai et al., ICCV 2017; with mask (version 2): Zhu et al., CVPR 2019.
"""

from torch import Tensor

from .kernels import kernels, promote

# Stride, padding, dilation (each y before x), groups, deformable groups: torchvision's order.
Geometry = tuple[int, int, int, int, int, int, int, int]


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution without a mask and without a bias."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_forward(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """The gradients of :func:`deform_conv_forward` by its input and offset."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    grads = _backward(grad_output, input, weight, offset, None, None, geometry)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """The gradient of :func:`deform_conv_forward` by its weight, times ``scale``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # This gradient does not depend on the weight's values: its own buffer lends the shape.
    grads = _backward(grad_output, input, grad_weight, offset, None, None, geometry)
    grad_weight.copy_(scale * grads[1])


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution with a mask; ``bias`` counts only if ``with_bias``."""
    geometry = (
        *(stride_h, stride_w, pad_h, pad_w),
        *(dilation_h, dilation_w, group, deformable_group),
    )
    output.copy_(_forward(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """The gradients of :func:`modulated_deform_conv_forward`."""
    geometry = (
        *(stride_h, stride_w, pad_h, pad_w),
        *(dilation_h, dilation_w, group, deformable_group),
    )
    bias = bias if with_bias else None
    grads = _backward(grad_output, input, weight, offset, mask, bias, geometry)
    targets = (grad_input, grad_weight, grad_offset, grad_mask)
    for target, grad in zip(targets, grads[:4], strict=True):
        target.copy_(grad)
    if with_bias:
        grad_bias.copy_(grads[4])


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    tensors = _complete(input, weight, offset, mask, bias)
    return kernels().deform_conv2d(*tensors, *geometry, mask is not None)


def _backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: Geometry,
) -> tuple[Tensor, ...]:
    """The gradients by input, weight, offset, mask and bias."""
    tensors = _complete(input, weight, offset, mask, bias)
    grad = grad_output.to(tensors[0].dtype)
    return kernels()._deform_conv2d_backward(grad, *tensors, *geometry, mask is not None)


def _complete(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """The five tensors torchvision asks for, in one precision; absent ones as zeros."""
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = input.new_zeros(len(weight))
    return promote(input, weight, offset, mask, bias)
