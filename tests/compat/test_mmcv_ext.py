"""The stand-in for mmcv's compiled operators, called through mmcv.ops as detectors call it.

Each operator is checked against a plain loop written here from its definition, in double precision,
and against what compiled mmcv gave where ``HALVIT_TEST_DATA`` is set.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from halvit_mm import compat
from halvit_mm.errors import UserError

if compat.backend() != "torchvision":
    pytest.skip(f"mmcv's operators come from {compat.backend()}", allow_module_level=True)

from mmcv import ops

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ),
]
HALVES = [torch.float16, torch.bfloat16]


def random_boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 60
    extents = 2 + torch.rand(count, 2, generator=generator) * 20
    return torch.cat((corners, corners + extents), dim=1)


def random_scores(count: int, seed: int = 1) -> Tensor:
    """Distinct scores, well apart from each other."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (order + 1.0) / (count + 1)


def iou(a: list[float], b: list[float], offset: int) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


# ------------------------------------------------------------------------------------------ nms


def loop_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    rows = boxes.double().tolist()
    kept: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -scores[i].item()):
        if all(iou(rows[i], rows[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_nms_equals_a_loop(device: str, offset: int, threshold: float):
    # Clusters of five, since boxes thrown at random hardly ever overlap by 0.8.
    boxes, scores = random_boxes(30).repeat(5, 1) + random_boxes(150) / 40, random_scores(150)
    dets, kept = ops.nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    expected = loop_nms(boxes, scores, threshold, offset)
    assert 5 < len(expected) < 150
    assert kept.tolist() == expected
    assert torch.equal(dets.cpu(), torch.cat((boxes, scores[:, None]), 1)[expected])


def test_nms_offset_widens_boxes():
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 5.0, 9.0, 14.0]])
    scores = torch.tensor([0.9, 0.8])
    # Overlap 9 × 4 of 81 + 81 − 36, but 10 × 5 of 100 + 100 − 50 pixels: 0.286 and 0.333.
    assert len(ops.nms(boxes, scores, 0.3, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.3, offset=1)[1]) == 1


@pytest.mark.parametrize("tenths", range(1, 10))
def test_nms_keeps_boxes_that_overlap_by_exactly_the_threshold(tenths: int):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, tenths, 10.0]])
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), tenths / 10)[1]) == 2


def test_nms_keeps_the_given_order_among_equal_scores():
    boxes = torch.arange(300.0)[:, None] * 10 + torch.tensor([0.0, 0.0, 5.0, 5.0])
    scores = torch.arange(300) % 3 / 2.0
    kept = ops.nms(boxes, scores, 0.5)[1].tolist()
    assert kept == [*range(2, 300, 3), *range(1, 300, 3), *range(0, 300, 3)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
def test_nms_takes_half_precision_and_mixed_precision(device: str, dtype: torch.dtype):
    boxes = random_boxes(60).to(device, dtype)
    scores = random_scores(60).to(device, dtype)
    expected = ops.nms(boxes.float(), scores.float(), 0.4)[1]
    assert 5 < len(expected) < 60
    assert torch.equal(ops.nms(boxes, scores, 0.4)[1], expected)
    assert torch.equal(ops.nms(boxes.float(), scores, 0.4)[1], expected)


@pytest.mark.parametrize("device", DEVICES)
def test_nms_without_boxes(device: str):
    dets, kept = ops.nms(torch.zeros(0, 4, device=device), torch.zeros(0, device=device), 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,) and kept.dtype == torch.int64 and kept.device.type == device


def test_nms_score_threshold_and_numpy():
    boxes, scores = random_boxes(80).numpy(), random_scores(80).numpy()
    dets, kept = ops.nms(boxes, scores, 0.5, score_threshold=0.5, max_num=7)
    above = np.flatnonzero(scores > 0.5)
    expected = loop_nms(torch.tensor(boxes[above]), torch.tensor(scores[above]), 0.5, 0)
    assert isinstance(dets, np.ndarray)
    assert kept.tolist() == above[expected][:7].tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("nms_type", ["nms", "soft_nms"])
def test_batched_nms_keeps_classes_apart(device: str, nms_type: str):
    boxes = random_boxes(1).repeat(3, 1).to(device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    labels = torch.tensor([0, 1, 0], device=device)
    config = {"type": nms_type, "iou_threshold": 0.5}
    dets, kept = ops.batched_nms(boxes, scores, labels, config)
    assert kept.tolist() == [0, 1]
    assert torch.equal(dets[:, 4], scores[:2])


# ------------------------------------------------------------------------------------- soft-nms


def loop_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    offset: int,
) -> tuple[list[int], list[float]]:
    """Soft-NMS on a list; a box dropped is replaced by the list's last, as compiled mmcv does."""
    rows = zip(boxes.tolist(), scores.tolist(), strict=True)
    live = [[i, row, score] for i, (row, score) in enumerate(rows)]
    done = 0
    while done < len(live):
        best = max(range(done, len(live)), key=lambda i: live[i][2])
        live[done], live[best] = live[best], live[done]
        done, position = done + 1, done + 1
        while position < len(live):
            overlap = iou(live[done - 1][1], live[position][1], offset)
            if method == "gaussian":
                live[position][2] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                live[position][2] *= 1 - overlap if method == "linear" else 0
            if live[position][2] < min_score:
                last = live.pop()
                if position < len(live):
                    live[position] = last
            else:
                position += 1
    return [entry[0] for entry in live], [entry[2] for entry in live]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("min_score", [1e-3, 0.2])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_nms_equals_a_loop(method: str, min_score: float, offset: int, dtype: torch.dtype):
    boxes, scores = random_boxes(120).to(dtype), random_scores(120).to(dtype)
    dets, kept = ops.soft_nms(boxes, scores, 0.3, 0.5, min_score, method, offset)
    index, decayed = loop_soft_nms(boxes.double(), scores, 0.3, 0.5, min_score, method, offset)
    assert kept.tolist() == index
    assert torch.equal(dets[:, :4], boxes[index])
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(
        dets[:, 4], torch.tensor(decayed, dtype=dtype), atol=tolerance, rtol=0
    )
    # Each case shows something: scores that decayed, or boxes that were dropped.
    assert len(index) < 120 or not torch.equal(dets[:, 4], scores[index])


def test_soft_nms_orders_equal_scores_as_compiled_mmcv():
    generator = torch.Generator().manual_seed(3)
    boxes = torch.randint(0, 12, (200, 2), generator=generator).float()
    boxes = torch.cat((boxes, boxes + 6), dim=1)
    scores = torch.randint(1, 5, (200,), generator=generator) / 4.0
    kept = ops.soft_nms(boxes, scores, 0.5, method="naive")[1].tolist()
    expected = loop_soft_nms(boxes, scores, 0.5, 0.5, 1e-3, "naive", 0)[0]
    assert kept == expected
    assert kept != loop_nms(boxes, scores, 0.5 - 1e-9, 0)  # the order is not simply by score


def test_soft_nms_by_hand():
    # The first two overlap by 50 of 100 + 100 − 50: 1/3. The third touches neither.
    boxes = torch.tensor([[0.0, 0, 10, 10], [5.0, 0, 15, 10], [50.0, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.6, 0.5])
    dets, kept = ops.soft_nms(boxes, scores, 0.3, method="linear")
    assert kept.tolist() == [0, 2, 1]
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.5, 0.4]))
    dets, kept = ops.soft_nms(boxes, scores, 0.3, sigma=0.5, method="gaussian")
    assert kept.tolist() == [0, 2, 1]
    assert dets[2, 4].item() == pytest.approx(0.6 * math.exp(-2 / 9), abs=1e-6)
    assert ops.soft_nms(boxes, scores, 0.3, method="naive")[1].tolist() == [0, 2]
    assert torch.equal(boxes[1], torch.tensor([5.0, 0, 15, 10])), "the caller's boxes were changed"


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_of_boxes_without_area(method: str):
    boxes = torch.tensor([[3.0, 1, 3, 1], [3.0, 1, 3, 1], [4.0, 3, 5, 3]])
    dets, kept = ops.soft_nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.6, method=method)
    assert kept.tolist() == [1, 2, 0]
    torch.testing.assert_close(dets[:, 4], torch.tensor([0.9, 0.7, 0.5]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
def test_soft_nms_takes_half_precision(device: str, dtype: torch.dtype):
    boxes, scores = random_boxes(40).to(device, dtype), random_scores(40).to(device, dtype)
    dets, kept = ops.soft_nms(boxes, scores, 0.3, min_score=0.2)
    exact, expected = ops.soft_nms(boxes.float(), scores.float(), 0.3, min_score=0.2)
    assert dets.dtype == dtype and dets.device.type == device
    assert torch.equal(kept, expected) and len(kept) < 40
    assert torch.equal(dets, exact.to(dtype))


def test_soft_nms_without_boxes():
    dets, kept = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and kept.shape == (0,)


# ------------------------------------------------------------------------------------ roi_align


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """The value of one channel at (y, x), pixel centres at whole numbers."""
    height, width = len(plane), len(plane[0])
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[top][left] * (1 - x + left) + plane[top][right] * (x - left)
    lower = plane[bottom][left] * (1 - x + left) + plane[bottom][right] * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def loop_roi_align(
    features: Tensor,
    rois: Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    mode: str,
    aligned: bool,
) -> Tensor:
    output = features.new_zeros(len(rois), features.shape[1], *size)
    shift = 0.5 if aligned else 0.0
    for k, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * scale - shift for value in box)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        grid_y = ratio or math.ceil(height / size[0])
        grid_x = ratio or math.ceil(width / size[1])
        for c, plane in enumerate(features[int(image)].tolist()):
            for i in range(size[0]):
                for j in range(size[1]):
                    samples = [
                        bilinear(
                            plane,
                            y1 + height / size[0] * (i + (a + 0.5) / grid_y),
                            x1 + width / size[1] * (j + (b + 0.5) / grid_x),
                        )
                        for a in range(grid_y)
                        for b in range(grid_x)
                    ]
                    if samples:
                        value = max(samples) if mode == "max" else sum(samples) / len(samples)
                        output[k, c, i, j] = value
    return output


# Inside; partly outside on each side; tiny; wholly outside; without area.
ROIS = torch.tensor(
    [
        [0, 3.3, 5.1, 21.7, 30.2],
        [1, -7.0, -5.5, 11.0, 9.0],
        [1, 30.0, 20.0, 70.0, 60.0],
        [0, 8.2, 8.4, 8.9, 8.8],
        [0, 200.0, 200.0, 230.0, 240.0],
        [1, 9.0, 9.0, 9.0, 9.0],
    ],
    dtype=torch.float64,
)


def random_features(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_equals_a_loop(device: str, mode: str, ratio: int, aligned: bool):
    features = random_features(2, 3, 11, 14)
    arguments = ((3, 4), 0.25, ratio, mode, aligned)
    output = ops.roi_align(features.to(device), ROIS.to(device), *arguments)
    expected = loop_roi_align(features, ROIS, *arguments)
    assert (expected[:4].abs().amax((1, 2, 3)) > 0).all()
    assert torch.equal(expected[4], torch.zeros(3, 3, 4, dtype=torch.float64))
    torch.testing.assert_close(output.cpu(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_by_hand(mode: str):
    features = torch.arange(16.0).view(1, 1, 4, 4)
    # Box (1, 1)–(3, 3) holds the pixels 5 6 9 10, one sample on each.
    output = ops.roi_align(features, torch.tensor([[0.0, 1, 1, 3, 3]]), (2, 2), 1.0, 1, mode, True)
    assert output.tolist() == [[[[5, 6], [9, 10]]]]
    output = ops.roi_align(features, torch.tensor([[0.0, 1, 1, 3, 3]]), (1, 1), 1.0, 2, mode, True)
    assert output.item() == (7.5 if mode == "avg" else 10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_gradient(device: str, mode: str, ratio: int, aligned: bool):
    features = random_features(2, 1, 4, 5).to(device).requires_grad_()
    rois = ROIS.to(device)

    def pool(features: Tensor) -> Tensor:
        return ops.roi_align(features, rois, (2, 3), 0.1, ratio, mode, aligned)

    # CUDA adds gradients up in any order, so repeated runs differ in the last bits.
    assert torch.autograd.gradcheck(pool, features, nondet_tol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_takes_half_precision(device: str, dtype: torch.dtype, mode: str):
    features = random_features(2, 3, 11, 14).to(device, dtype).requires_grad_()
    rois = ROIS.to(device, dtype)
    output = ops.roi_align(features, rois, (3, 3), 0.25, 0, mode, True)
    output.sum().backward()
    exact_features = features.detach().float().requires_grad_()
    exact = ops.roi_align(exact_features, rois.float(), (3, 3), 0.25, 0, mode, True)
    exact.sum().backward()
    assert output.dtype == features.grad.dtype == dtype
    assert torch.equal(output, exact.to(dtype))
    tolerance = 0.05 if mode == "avg" else 1.0  # argmax is kept in the features' own precision
    assert (features.grad - exact_features.grad).abs().max() < tolerance
    assert features.grad.abs().max() > 0


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_without_boxes(mode: str):
    features = random_features(1, 2, 5, 5).requires_grad_()
    output = ops.roi_align(features, torch.zeros(0, 5).double(), (7, 7), 1.0, 0, mode, True)
    output.sum().backward()
    assert output.shape == (0, 2, 7, 7)
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_roi_align_under_autocast():
    features = random_features(1, 2, 8, 8).float().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = ops.RoIAlign(3, 0.5, 0)(features, torch.tensor([[0.0, 1, 2, 13, 12]]).bfloat16())
    expected = ops.RoIAlign(3, 0.5, 0)(features.float(), torch.tensor([[0.0, 1, 2, 13, 12]]))
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected.bfloat16())


# ----------------------------------------------------------------------------------- focal loss


def formula_focal_loss(
    logits: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor | None
) -> Tensor:
    """FL = −α_t (1 − p_t)^γ log p_t, each logit an own two-class problem."""
    rows = []
    for row, label in zip(logits, target.tolist(), strict=True):
        p = 1 / (1 + torch.exp(-row))
        positive = torch.tensor([c == label for c in range(len(row))], device=row.device)
        p_t = torch.where(positive, p, 1 - p)
        alpha_t = torch.where(positive, alpha * torch.ones_like(p), 1 - alpha)
        row_weight = weight[label] if weight is not None and label < len(row) else 1.0
        rows.append(-row_weight * alpha_t * (1 - p_t) ** gamma * torch.log(p_t))
    return torch.stack(rows)


@pytest.fixture
def focal_input() -> tuple[Tensor, Tensor]:
    """Logits (9, 4) and targets; 4 means background."""
    return 2 * random_features(9, 4), torch.tensor([0, 1, 2, 3, 4, 4, 2, 0, 4])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6), (0.0, 0.5)])
def test_focal_loss_equals_the_formula(
    device: str,
    weighted: bool,
    reduction: str,
    gamma: float,
    alpha: float,
    focal_input: tuple[Tensor, Tensor],
):
    logits, target = (tensor.to(device) for tensor in focal_input)
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64, device=device)
    weight = weight if weighted else None
    results = []
    for loss in (ops.sigmoid_focal_loss, formula_focal_loss):
        x = logits.clone().requires_grad_()
        if loss is ops.sigmoid_focal_loss:
            value = loss(x, target, gamma, alpha, weight, reduction)
        else:
            value = loss(x, target, gamma, alpha, weight)
            value = value if reduction == "none" else value.sum()
            value = value / len(x) if reduction == "mean" else value
        slope = torch.linspace(0.5, 2, value.numel(), device=device).double().view(value.shape)
        value.backward(slope)
        results.append((value, x.grad))
    assert results[1][0].abs().min() > 0
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss_gradient(device: str, weighted: bool, focal_input: tuple[Tensor, Tensor]):
    logits, target = (tensor.to(device) for tensor in focal_input)
    weight = torch.rand(4, dtype=torch.float64, device=device) if weighted else None

    def loss(logits: Tensor) -> Tensor:
        return ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, "none")

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_focal_loss_equals_torchvision(focal_input: tuple[Tensor, Tensor]):
    from torchvision.ops import sigmoid_focal_loss

    logits, target = focal_input
    one_hot = F.one_hot(target, 5)[:, :4].double()
    expected = sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=2.0)
    output = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    torch.testing.assert_close(output, expected, atol=1e-12, rtol=0)


def test_focal_loss_of_a_single_logit_by_hand():
    # p = 1/2 everywhere: −α (1/2)² log(1/2) for the target, (1 − α) in place of α elsewhere.
    loss = ops.sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([1]), 2.0, 0.25, None, "none")
    expected = torch.tensor([[0.75, 0.25]]) * 0.25 * math.log(2)
    torch.testing.assert_close(loss, expected)


def test_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[-200.0, 200.0, 0.0], [200.0, -200.0, 0.0]], requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([0, 0]), 2.0, 0.25, None, "none")
    loss.sum().backward()
    # Wrong by 200: the loss grows as |x|, with slope α; right by 200: both vanish.
    torch.testing.assert_close(loss[:, :2], torch.tensor([[50.0, 150.0], [0.0, 0.0]]))
    torch.testing.assert_close(logits.grad[:, :2], torch.tensor([[-0.25, 0.75], [0.0, 0.0]]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
def test_focal_loss_takes_half_precision(
    device: str, dtype: torch.dtype, focal_input: tuple[Tensor, Tensor]
):
    logits, target = focal_input[0].to(device, dtype), focal_input[1].to(device)
    x = logits.clone().requires_grad_()
    loss = ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, "none")
    loss.backward(torch.ones_like(loss))
    y = logits.float().requires_grad_()
    exact = ops.sigmoid_focal_loss(y, target, 2.0, 0.25, None, "none")
    exact.sum().backward()
    assert loss.dtype == x.grad.dtype == dtype
    assert torch.equal(loss, exact.to(dtype))
    assert torch.equal(x.grad, y.grad.to(dtype))


def test_focal_loss_without_rows():
    logits = torch.zeros(0, 4, requires_grad=True)
    ops.sigmoid_focal_loss(logits, torch.zeros(0).long(), 2.0, 0.25, None, "sum").backward()
    assert logits.grad.shape == (0, 4)


# ----------------------------------------------------------------------- deformable convolution


def loop_deform_conv(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, geometry: dict
) -> Tensor:
    """out[o, i] = Σ_ck w[o, c, k] · x[c, i·s − p + d·k + offset[k, i]] · mask[k, i]."""
    stride, padding, dilation = geometry["stride"], geometry["padding"], geometry["dilation"]
    groups, deform_groups = geometry["groups"], geometry["deform_groups"]
    outputs, per_group, kernel_h, kernel_w = weight.shape
    output = x.new_zeros(len(x), outputs, *offset.shape[2:])
    padded = F.pad(x, (1, 1, 1, 1))  # so that points within one pixel of the map fade to 0
    for b, o, i, j in np.ndindex(*output.shape):
        for c, ky, kx in np.ndindex(per_group, kernel_h, kernel_w):
            channel = c + o // (outputs // groups) * per_group
            k = channel // (x.shape[1] // deform_groups) * kernel_h * kernel_w + ky * kernel_w + kx
            y = i * stride[0] - padding[0] + ky * dilation[0] + offset[b, 2 * k, i, j].item()
            z = j * stride[1] - padding[1] + kx * dilation[1] + offset[b, 2 * k + 1, i, j].item()
            if -1 < y < x.shape[2] and -1 < z < x.shape[3]:
                value = bilinear(padded[b, channel].tolist(), y + 1, z + 1)
                value *= 1.0 if mask is None else mask[b, k, i, j].item()
                output[b, o, i, j] += weight[o, c, ky, kx] * value
    return output


GEOMETRIES = [
    {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "deform_groups": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "groups": 2, "deform_groups": 2},
]


def deform_input(geometry: dict) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, offset, mask and weight (2 rows by 3 columns) of a small case."""
    x, weight = random_features(2, 4, 5, 6), random_features(4, 4 // geometry["groups"], 2, 3)
    arguments = [geometry[key] for key in ("stride", "padding", "dilation", "groups")]
    height, width = F.conv2d(x, weight, None, *arguments).shape[2:]
    points = geometry["deform_groups"] * 2 * 3
    offset = 1.5 * random_features(2, 2 * points, height, width)
    return x, offset, random_features(2, points, height, width).sigmoid(), weight


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("modulated", [False, True])
def test_deform_conv_equals_a_loop(device: str, geometry: dict, modulated: bool):
    x, offset, mask, weight = deform_input(geometry)
    on_device = [tensor.to(device) for tensor in (x, offset, mask, weight)]
    bias = torch.arange(4.0).double()
    if modulated:
        arguments = geometry.values()
        output = ops.modulated_deform_conv2d(*on_device, bias.to(device), *arguments)
        expected = loop_deform_conv(x, offset, mask, weight, geometry) + bias[:, None, None]
    else:
        output = ops.deform_conv2d(*on_device[:2], on_device[3], *geometry.values())
        expected = loop_deform_conv(x, offset, None, weight, geometry)
    torch.testing.assert_close(output.cpu(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("modulated", [False, True])
def test_deform_conv_gradient(device: str, geometry: dict, modulated: bool):
    x, offset, mask, weight = (t.to(device).requires_grad_() for t in deform_input(geometry))
    bias = torch.zeros(4, dtype=torch.float64, device=device, requires_grad=True)
    if modulated:
        operator, tensors = ops.modulated_deform_conv2d, (x, offset, mask, weight, bias)
    else:
        operator, tensors = ops.deform_conv2d, (x, offset, weight)

    def convolve(*tensors: Tensor) -> Tensor:
        return operator(*tensors, *geometry.values())

    assert torch.autograd.gradcheck(convolve, tensors, nondet_tol=1e-12, fast_mode=True)


@pytest.mark.parametrize("dtype", HALVES)
def test_deform_conv_takes_half_precision(dtype: torch.dtype):
    x, offset, mask, weight = (t.to(dtype).requires_grad_() for t in deform_input(GEOMETRIES[0]))
    output = ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1)
    output.sum().backward()
    exact = ops.modulated_deform_conv2d(
        x.float(), offset.float(), mask.float(), weight.float(), None, 1, 1
    )
    assert output.dtype == x.grad.dtype == dtype
    assert torch.equal(output, exact.to(dtype))
    assert all(t.grad.abs().max() > 0 for t in (x, offset, mask, weight))


# ------------------------------------------------------------------ against compiled mmcv 2.1.0


def test_results_of_compiled_mmcv(test_data):
    file = test_data / "mmcv_ops_reference.pt"
    if not file.is_file():
        pytest.skip(f"{file} is missing")
    cases = torch.load(file, weights_only=True)["cases"]
    assert {case["op"] for case in cases} == {"nms", "soft_nms", "batched_nms", "roi_align"}
    for case in cases:
        arguments, name = case["args"], case["op"]
        if name == "roi_align":
            features = arguments["input"].clone().requires_grad_()
            output = ops.roi_align(features, *list(arguments.values())[1:])
            output.backward(case["grad_output"])
            assert torch.equal(output, case["output"])
            assert torch.equal(features.grad, case["grad_input"])
        else:
            dets, kept = getattr(ops, name)(**arguments)
            assert torch.equal(kept, case["keep"])
            # exp differs in its last bit between libraries; everything else is equal bit by bit.
            tolerance = 1e-6 if arguments.get("method") == "gaussian" else 0
            torch.testing.assert_close(dets, case["dets"], atol=tolerance, rtol=0)


# ---------------------------------------------------------------------------- everything else


def test_other_operators_name_themselves_and_the_cure():
    boxes = torch.tensor([[5.0, 5, 4, 4, 0.1]])
    with pytest.raises(RuntimeError, match=r"'nms_rotated' needs compiled code.*pip install"):
        ops.nms_rotated(boxes, torch.tensor([0.9]), 0.5)
    with pytest.raises(UserError, match="'softmax_focal_loss_forward'"):
        ops.softmax_focal_loss(torch.zeros(2, 3), torch.tensor([0, 1]), 2.0, 0.25, None, "mean")


def test_mmcv_reports_on_the_stand_in():
    from mmcv.utils import ext_loader
    from torchvision import __version__

    assert __version__ in ops.get_compiler_version()
    assert isinstance(ops.get_compiling_cuda_version(), str)
    extension = ext_loader.load_ext("_ext", ["nms", "roi_align_forward", "three_nn_forward"])
    assert extension.nms is not None
    assert not hasattr(extension, "__path__") and not hasattr(extension, "_private")


@pytest.mark.filterwarnings("ignore:.*find_loader.*:DeprecationWarning")
def test_mmcv_finds_the_operators():
    from mmcv.utils import ext_loader

    assert ext_loader.check_ops_exist() is True
