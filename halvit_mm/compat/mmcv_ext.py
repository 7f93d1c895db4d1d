"""A stand-in for ``mmcv._ext``: the operators detectors need, from torchvision's kernels.

The functions have the names, arguments and in-place outputs with which the wrappers in ``mmcv.ops``
call the compiled extension, and give its results. They take CPU and CUDA tensors. Half precision
and bfloat16 are computed in single precision and rounded once at the end, since not every kernel
of torchvision's takes them. Any other operator exists, so that ``mmcv.ops`` can be imported, and
raises :class:`OperatorUnavailable` when it is called.
"""

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .kernels import OperatorUnavailable, kernels, load_torchvision, promote
from .roi_max import roi_max, roi_max_backward

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "nms",
    "roi_align_backward",
    "roi_align_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softnms",
]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("_"):  # Python's own questions, such as __path__
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def unavailable(*args: object, **kwargs: object) -> NoReturn:
        raise OperatorUnavailable(
            f"mmcv's operator '{name}' needs compiled code, and this mmcv was installed without; "
            "install mmcv with compiled operators: with torch and a C++ compiler (for a GPU, nvcc) "
            "at hand, `pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps "
            "onedl-mmcv`"
        )

    return unavailable


def get_compiler_version() -> str:
    """The compiler of the operators, for mmcv's environment report."""
    return f"n/a (operators of torchvision {load_torchvision().__version__})"


def get_compiling_cuda_version() -> str:
    """The CUDA release the operators were compiled with, for mmcv's environment report."""
    cuda = load_torchvision().version.cuda
    return f"{cuda} (torchvision's)" if cuda else "n/a"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        iou_threshold: boxes that overlap a better one by *more* than this are dropped.
        offset: 0, or 1 where a box's width is x2 − x1 + 1.

    Returns:
        The indices of the boxes kept, by falling score; equal scores in the order given.
    """
    boxes, scores = promote(boxes, scores)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # mmcv compares in the boxes' precision. As a Python float 0.3 would lie just below the overlap
    # of two boxes that overlap by exactly 0.3 in single precision, and drop one of them.
    iou_threshold = boxes.new_tensor(iou_threshold, device="cpu").item()
    return kernels().nms(boxes, scores, iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., ICCV 2017): scores decay by overlap with better boxes.

    Args:
        boxes: (N, 4), x1 y1 x2 y2. mmcv hands this operator CPU tensors only.
        scores: (N,).
        dets: (N, 5); its first M rows are set to the boxes kept and their new scores.
        iou_threshold: the overlap from which methods 0 and 1 act.
        sigma: the width of method 2.
        min_score: boxes whose score decays below this are dropped.
        method: 0 (naive: score 0), 1 (linear: × 1 − IoU) or 2 (gaussian: × exp(−IoU²/σ)).
        offset: 0, or 1 where a box's width is x2 − x1 + 1.

    Returns:
        The indices (M,) of the boxes kept, in the order in which they were picked.
    """
    boxes, scores = promote(boxes, scores)
    # One column per box: x1, y1, x2, y2, score. The picked boxes come first, then the live ones.
    # NumPy, because its calls cost a fraction of torch's and there are ten or so per box.
    table = torch.cat((boxes, scores[:, None]), dim=1).t().contiguous().cpu().numpy()
    index = np.arange(table.shape[1], dtype=np.int64)
    live, i = table.shape[1], 0
    while i < live:
        best = i + table[4, i:live].argmax()
        table[:, [i, best]] = table[:, [best, i]]
        index[[i, best]] = index[[best, i]]
        i += 1

        rest = table[:, i:live]
        iou = _iou(table[:4, i - 1], rest[:4], offset)
        if method == 2:
            rest[4] *= np.exp(-(iou * iou) / sigma)
        else:
            rest[4, iou >= iou_threshold] *= (1 - iou[iou >= iou_threshold]) if method else 0

        # The compiled operator moves the last box into the place of a dropped one, which decides
        # the order among equal scores. This fills the holes in the same way.
        kept = ~(rest[4] < min_score)
        count = np.count_nonzero(kept)
        holes = i + np.flatnonzero(~kept[:count])
        fillers = i + count + np.flatnonzero(kept[count:])[::-1]
        table[:, holes], index[holes] = table[:, fillers], index[fillers]
        live = i + count
    dets[:live] = torch.from_numpy(table[:, :live].T).to(dets)
    return torch.from_numpy(index[:live])


def _iou(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """IoU of one box (4,) with others (4, N); 0 where both are empty."""
    width = np.minimum(box[2], others[2]) - np.maximum(box[0], others[0]) + offset
    height = np.minimum(box[3], others[3]) - np.maximum(box[1], others[1]) + offset
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    area = (box[2] - box[0] + offset) * (box[3] - box[1] + offset)
    areas = (others[2] - others[0] + offset) * (others[3] - others[1] + offset)
    union = area + areas - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al., ICCV 2017).

    Args:
        input: (B, C, H, W).
        rois: (K, 5), image index and x1 y1 x2 y2; times ``spatial_scale`` these are in pixels
            of ``input``.
        output: (K, C, aligned_height, aligned_width), filled in.
        argmax_y: as ``output``, filled in with the winning sample's coordinate where
            ``pool_mode`` is 0; unused otherwise. ``argmax_x`` likewise.
        sampling_ratio: samples per bin and direction; 0: as many as the bin has pixels.
        pool_mode: 0 (maximum of a bin's samples) or 1 (their mean).
        aligned: shift the boxes by half a pixel, as is right.
    """
    size = (aligned_height, aligned_width)
    features, boxes = promote(input, rois)
    if pool_mode == 1:
        pooled = kernels().roi_align(features, boxes, spatial_scale, *size, sampling_ratio, aligned)
        output.copy_(pooled)
        return
    maxima = roi_max(features, boxes, size, spatial_scale, sampling_ratio, aligned)
    for target, result in zip((output, argmax_y, argmax_x), maxima, strict=True):
        target.copy_(result)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient of :func:`roi_align_forward`, written to ``grad_input`` (B, C, H, W)."""
    size = (aligned_height, aligned_width)
    grad, boxes = promote(grad_output, rois)
    shape = grad_input.shape
    if pool_mode == 1:
        result = kernels()._roi_align_backward(
            grad, boxes, spatial_scale, *size, *shape, sampling_ratio, aligned
        )
    else:
        result = roi_max_backward(grad, boxes, argmax_y, argmax_x, shape)
    # The caller made room as large as the feature map. It is given back instead of filled.
    grad_input.set_(result.to(grad_input.dtype))


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """The focal loss (Lin et al., ICCV 2017) of every logit: ``−α_t (1 − p_t)^γ log p_t``.

    Args:
        input: (N, C) logits.
        target: (N,) class of each row; C (any class outside of 0…C−1) is the background.
        weight: (C,) weight of the rows of each class, or empty. A background row weighs 1.
        output: (N, C), filled in.
    """
    logits, sign, scale = _focal_terms(input, target, weight, alpha)
    # With z = ±x: p_t = σ(z) and 1 − p_t = σ(−z), neither of which cancels.
    z = sign * logits
    output.copy_(-scale * torch.sigmoid(-z).pow(gamma) * F.logsigmoid(z))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The derivative of :func:`sigmoid_focal_loss_forward`, written to ``grad_input`` (N, C)."""
    logits, sign, scale = _focal_terms(input, target, weight, alpha)
    z = sign * logits
    slope = torch.sigmoid(-z) - gamma * torch.sigmoid(z) * F.logsigmoid(z)
    grad_input.copy_(-scale * sign * torch.sigmoid(-z).pow(gamma) * slope)


def _focal_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits (N, C), +1 where a logit is of the target class and −1 elsewhere, and α_t."""
    logits, weight = promote(input, weight)
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    known, positive = positive.any(1), positive.to(logits)
    sign = 2 * positive - 1
    scale = alpha * positive + (1 - alpha) * (1 - positive)
    if weight.numel():
        row_weight = torch.where(known, weight[target % len(weight)], 1.0)
        scale = scale * row_weight[:, None]
    return logits, sign, scale
