"""Distillation's losses against their formulas, written out by loops in double precision."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from halvit_mm.distillation.losses import (
    attention_relation_loss,
    hidden_relation_loss,
    prediction_loss,
)

EXACT = 1e-12


def fixed(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(x) for x in row]
    return [p / sum(powers) for p in powers]


# By loops. `mutant` makes one mistake.


def prediction_by_loops(student, teacher, form, temperature, mutant=None) -> float:
    total = 0.0
    batch, classes = student.shape
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        if mutant == "exchanged":
            s, t = t, s
        p_s = softmax([x / temperature for x in s])
        p_t = softmax([x / temperature for x in t])
        if mutant == "student without temperature":
            p_s = softmax(s)
        for a, b in zip(p_s, p_t, strict=True):
            entropy = b * math.log(b) if form == "kl" else 0.0
            total += entropy - b * math.log(a)
    if form == "cross_entropy":
        return total / (batch * classes if mutant == "mean over classes" else batch)
    scale = 1.0 if mutant == "no T²" else temperature**2
    return scale * total / (batch if mutant == "no mean over classes" else batch * classes)


def attention_by_loops(student, teacher, heads=1, mutant=None) -> float:
    total = 0.0
    windows, tokens, _ = student[0].shape
    for w in range(windows):
        for h in range(heads):
            for i in range(3):
                for j in range(3):
                    if mutant == "three pairs" and i != j:
                        continue
                    for row in range(tokens):
                        relations = []
                        for qkv in (student, teacher):
                            width = qkv[0].shape[-1] // heads
                            part = slice(h * width, (h + 1) * width)
                            scale = qkv[0].shape[-1] if mutant == "whole width" else width
                            scale = 1 if mutant == "no scale" else math.sqrt(scale)
                            a = qkv[i][w, row, part].tolist()
                            relation = []
                            for column in range(tokens):
                                b = qkv[j][w, column, part].tolist()
                                relation.append(
                                    sum(x * y for x, y in zip(a, b, strict=True)) / scale
                                )
                            relations.append(softmax(relation))
                        p_s, p_t = relations[::-1] if mutant == "exchanged" else relations
                        total -= sum(t * math.log(s) for s, t in zip(p_s, p_t, strict=True))
    return total / (9 * windows * heads * tokens)


def hidden_by_loops(student, teacher, mutant=None) -> float:
    total = 0.0
    images, tokens, _ = student.shape
    for image in range(images):
        unit = []
        for hidden in (student, teacher):
            rows = hidden[image].tolist()
            lengths = [math.sqrt(sum(x * x for x in row)) for row in rows]
            if mutant == "not normalised":
                lengths = [1.0] * tokens
            unit.append([[x / n for x in row] for row, n in zip(rows, lengths, strict=True)])
        for i in range(tokens):
            for j in range(tokens):
                s, t = (sum(a * b for a, b in zip(u[i], u[j], strict=True)) for u in unit)
                total += (s - t) ** 2
    scale = 1 if mutant == "no factor" else 49
    return scale * total / (images * tokens * (1 if mutant == "mean over rows only" else tokens))


@pytest.mark.parametrize("form", ["cross_entropy", "kl"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_prediction_loss_is_its_formula(form, temperature):
    student, teacher = fixed(3, 5), fixed(3, 5, seed=1)
    given = prediction_loss(student, teacher, form=form, temperature=temperature).item()
    assert abs(given - prediction_by_loops(student, teacher, form, temperature)) < EXACT


@pytest.mark.parametrize(
    ("form", "mutant"),
    [
        ("cross_entropy", "exchanged"),
        ("cross_entropy", "student without temperature"),
        ("cross_entropy", "mean over classes"),
        ("kl", "exchanged"),
        ("kl", "no T²"),
        ("kl", "no mean over classes"),
    ],
)
def test_the_comparison_of_predictions_sees(form, mutant):
    student, teacher = fixed(3, 5), fixed(3, 5, seed=1)
    given = prediction_loss(student, teacher, form=form, temperature=2.0).item()
    assert abs(given - prediction_by_loops(student, teacher, form, 2.0, mutant)) > 1e-4


def test_both_forms_of_the_prediction_loss_pull_alike():
    """Their gradients differ by the number of classes, and vanish at the teacher's scores."""
    teacher = fixed(4, 6)
    gradients = []
    for form in ("cross_entropy", "kl"):
        student = fixed(4, 6, seed=1).requires_grad_()
        prediction_loss(student, teacher, form=form).backward()
        gradients.append(student.grad)
        at_teacher = teacher.clone().requires_grad_()
        prediction_loss(at_teacher, teacher, form=form).backward()
        assert at_teacher.grad.abs().max() < EXACT
    torch.testing.assert_close(gradients[0], 6 * gradients[1])


def qkv(width: int, *, seed: int, windows: int = 2, tokens: int = 4) -> tuple[Tensor, ...]:
    return tuple(fixed(windows, tokens, width, seed=seed + i) for i in range(3))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("teacher_width", [6, 10])
def test_attention_loss_is_its_formula(heads, teacher_width):
    student, teacher = qkv(6, seed=0), qkv(teacher_width, seed=3)
    given = attention_relation_loss(student, teacher, heads=heads).item()
    assert abs(given - attention_by_loops(student, teacher, heads)) < EXACT


@pytest.mark.parametrize("mutant", ["exchanged", "no scale", "whole width", "three pairs"])
def test_the_comparison_of_attention_sees(mutant):
    student, teacher = qkv(6, seed=0), qkv(10, seed=3)
    given = attention_relation_loss(student, teacher, heads=2).item()
    assert abs(given - attention_by_loops(student, teacher, 2, mutant)) > 1e-3


@pytest.mark.parametrize(
    ("tokens", "width", "teacher_width"), [(4, 6, 6), (4, 6, 9), (12, 3, 3), (12, 3, 5), (6, 4, 4)]
)
def test_hidden_loss_is_its_formula(tokens, width, teacher_width):
    """Few tokens and wide channels make the relations, many tokens the products of channels."""
    student, teacher = fixed(2, tokens, width), fixed(2, tokens, teacher_width, seed=1)
    given = hidden_relation_loss(student, teacher).item()
    assert abs(given - hidden_by_loops(student, teacher)) < EXACT


@pytest.mark.parametrize("mutant", ["not normalised", "no factor", "mean over rows only"])
@pytest.mark.parametrize("tokens", [4, 12])
def test_the_comparison_of_hidden_states_sees(mutant, tokens):
    student, teacher = fixed(2, tokens, 4), fixed(2, tokens, 5, seed=1)
    given = hidden_relation_loss(student, teacher).item()
    assert abs(given - hidden_by_loops(student, teacher, mutant)) > 1e-3


def test_many_tokens_make_no_matrix_of_tokens_by_tokens():
    sizes = []

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                sizes.append(out.numel())
            return out

    with Sizes():
        hidden_relation_loss(fixed(1, 400, 8), fixed(1, 400, 16, seed=1))
    assert max(sizes) == 400 * 16


def explicit_hidden(student: Tensor, teacher: Tensor) -> Tensor:
    s, t = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    return 49 * (s @ s.mT - t @ t.mT).square().mean()


@pytest.mark.parametrize("distance", [1.0, 1e-1, 1e-2])
def test_hidden_loss_in_32_bits_where_its_terms_cancel(distance):
    """Tokens with a common direction, as trained networks have them, and a student close by."""
    teacher = fixed(2, 784, 96, seed=1) + 2 * fixed(1, 1, 96, seed=2)
    student = teacher + distance * fixed(2, 784, 96, seed=3)
    results = []
    for loss, dtype in ((hidden_relation_loss, torch.float32), (explicit_hidden, torch.float64)):
        x = student.to(dtype).requires_grad_()
        value = loss(x, teacher.to(dtype))
        value.backward()
        results.append((value.item(), x.grad.double()))
    (given, gradient), (expected, exact) = results
    assert abs(given - expected) < 1e-5
    assert (gradient - exact).norm() < 1e-5 / math.sqrt(expected) * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_compute_in_32_bits_under_autocast(dtype):
    """16 bits come in, and no step between them and the loss is rounded to 16 bits."""
    scores = [fixed(4, 10, seed=s).to(dtype) for s in range(2)]
    tensors = [tuple(x.to(dtype) for x in qkv(8, seed=s)) for s in (2, 5)]
    hidden = [fixed(2, tokens, 8, seed=tokens + s).to(dtype) for tokens in (4, 40) for s in (0, 1)]
    cases = [
        (prediction_loss, scores),
        (lambda s, t: prediction_loss(s, t, form="kl"), scores),
        (attention_relation_loss, tensors),
        (hidden_relation_loss, hidden[:2]),
        (hidden_relation_loss, hidden[2:]),
    ]

    def double(x):
        return tuple(map(double, x)) if isinstance(x, tuple) else x.double()

    for loss, inputs in cases:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            given = loss(*inputs)
        assert given.dtype == torch.float32
        torch.testing.assert_close(given.double(), loss(*map(double, inputs)), rtol=1e-5, atol=1e-5)


def test_a_batch_is_the_mean_of_its_halves():
    """So that gradients of accumulated batches and of several processes add up to the whole's."""
    scores = fixed(4, 5), fixed(4, 5, seed=1)
    windows = qkv(6, seed=0, windows=4), qkv(6, seed=3, windows=4)
    hidden = fixed(4, 9, 3), fixed(4, 9, 4, seed=1)

    def half(x, part):
        return tuple(half(t, part) for t in x) if isinstance(x, tuple) else x[part]

    for loss, inputs in (
        (prediction_loss, scores),
        (attention_relation_loss, windows),
        (hidden_relation_loss, hidden),
    ):
        halves = [loss(*(half(x, part) for x in inputs)) for part in (slice(2), slice(2, 4))]
        torch.testing.assert_close(loss(*inputs), sum(halves) / 2, rtol=0, atol=EXACT)


def test_shapes_and_options_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 3\) cannot be compared with the teacher's \(2, 4"):
        prediction_loss(fixed(2, 3), fixed(2, 4))
    with pytest.raises(ValueError, match="form='soft' is unknown"):
        prediction_loss(fixed(2, 3), fixed(2, 3), form="soft")
    with pytest.raises(ValueError, match=r"\(2, 4\) cannot be compared with the teacher's \(2, 5"):
        attention_relation_loss(qkv(6, seed=0), qkv(6, seed=0, tokens=5))
    with pytest.raises(ValueError, match="heads=4 does not divide the width 6"):
        attention_relation_loss(qkv(8, seed=0), qkv(6, seed=0), heads=4)
    with pytest.raises(ValueError, match=r"\(1, 4\) cannot be compared with the teacher's \(1, 9"):
        hidden_relation_loss(fixed(1, 4, 3), fixed(1, 9, 3))
