"""What distillation minimises: a student's predictions, attention and hidden states beside a
teacher's.

Source: Zhang et al., "MiniViT: Compressing Vision Transformers with Weight Multiplexing", CVPR
2022. From its reference code, not the paper, are the factors of both forms of the prediction loss,
that queries, keys and values are taken with their biases and before scaling, and all of the hidden
loss, with its factor 49.

All losses are computed in 32 bits at least, also under autocast. Gradients flow to whatever needs
them; it is the caller who keeps the teacher out.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..layers.attention import QKV

#: Forms of the prediction loss: Mini-Swin's and Mini-DeiT's.
FORMS = ("cross_entropy", "kl")

# Of 7 × 7 tokens, says the reference code, which has this number for maps of all sizes.
_HIDDEN_SCALE = 49


def prediction_loss(
    student: Tensor, teacher: Tensor, *, form: str = "cross_entropy", temperature: float = 1.0
) -> Tensor:
    """Compares class probabilities, ``p = softmax(scores / T)``.

    ``"cross_entropy"``, as Mini-Swin has it: ``−Σ_c p_t[c] log p_s[c]``, the mean over the batch.
    ``"kl"``, as Mini-DeiT has it: ``T² Σ_b Σ_c p_t[c] (log p_t[c] − log p_s[c]) / (B · classes)``.
    At T = 1 the gradient of the first is that of the second times the number of classes.

    Args:
        student: Scores (B, classes) before the softmax.
        teacher: Scores of the same shape.
        form: ``"cross_entropy"`` or ``"kl"``.
        temperature: T; above 1 it brings out the less likely classes.

    Raises:
        ValueError: The form is unknown, or the shapes differ.
    """
    _check_shapes(student, teacher)
    if form not in FORMS:
        raise ValueError(f"form={form!r} is unknown: choose one of {FORMS}")
    with torch.autocast(student.device.type, enabled=False):
        student = _full(student) / temperature
        teacher = _full(teacher) / temperature
        if form == "cross_entropy":
            return F.cross_entropy(student, teacher.softmax(dim=-1))
        divergence = F.kl_div(
            student.log_softmax(dim=-1),
            teacher.log_softmax(dim=-1),
            reduction="sum",
            log_target=True,
        )
        return divergence * (temperature**2 / student.numel())


def attention_relation_loss(student: QKV, teacher: QKV, *, heads: int = 1) -> Tensor:
    """Compares how the tokens of a window relate in one layer, for all nine pairs of q, k and v.

    ``R_ij = (X_i / √C) X_jᵀ`` with X_0, X_1, X_2 = q, k, v of one window, C channels wide; the loss
    is the mean over windows, relation heads and rows of ``−Σ softmax(R_ij of the teacher) · log
    softmax(R_ij of the student)``, summed over i and j and divided by 9.

    Args:
        student: Queries, keys and values, biases included and unscaled, each (windows, N, C).
        teacher: Those of the teacher, of the same windows and N; C may be another.
        heads: Relation heads: channels are divided into so many groups, each of which makes a
            relation of its own (C is then a group's width).

    Raises:
        ValueError: Windows or tokens differ, or ``heads`` does not divide both widths.
    """
    _check_shapes(student[0][..., 0], teacher[0][..., 0])
    for x in (student[0], teacher[0]):
        if x.shape[-1] % heads:
            raise ValueError(f"heads={heads} does not divide the width {x.shape[-1]}")
    with torch.autocast(student[0].device.type, enabled=False):
        student = tuple(_split(x, heads) for x in student)
        teacher = tuple(_split(x, heads) for x in teacher)
        total = student[0].new_zeros(())
        for i in range(3):
            for j in range(3):
                target = _relation(teacher[i], teacher[j]).softmax(dim=-1)
                # The rows of all windows are a batch.
                total = total + F.cross_entropy(_relation(student[i], student[j]), target)
        return total / 9


def hidden_relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compares the cosines between all tokens of an image in one layer.

    With the tokens H (N, C) normalised to length 1: the mean over images and all N² pairs of
    ``(H_s H_sᵀ − H_t H_tᵀ)²``, times 49.

    Where there are more tokens than channels, the N × N matrices are not made, as matrices of
    channels by channels will do:
    ``‖H_s H_sᵀ − H_t H_tᵀ‖² = ‖H_sᵀ H_s‖² − 2 ‖H_sᵀ H_t‖² + ‖H_tᵀ H_t‖²``. The three terms cancel
    where student and teacher agree: in 32 bits the value is off by some 1e-6 then, also below 0,
    and the gradient relatively by some 1e-6 over the root of the loss, ten times as much as the
    other way and nothing that training would notice.

    Args:
        student: A layer's output (B, N, C).
        teacher: That of the teacher; C may be another.

    Raises:
        ValueError: Images or tokens differ.
    """
    _check_shapes(student[..., 0], teacher[..., 0])
    tokens, own, other = student.shape[1], student.shape[2], teacher.shape[2]
    with torch.autocast(student.device.type, enabled=False):
        s, t = (F.normalize(_full(x), dim=-1) for x in (student, teacher))
        if tokens * (own + other) <= own**2 + own * other + other**2:
            difference = s @ s.mT - t @ t.mT
            return _HIDDEN_SCALE * difference.square().mean()
        squares = _gram_norm(s, s) - 2 * _gram_norm(s, t) + _gram_norm(t, t)
        return _HIDDEN_SCALE / tokens**2 * squares.mean()


def _gram_norm(a: Tensor, b: Tensor) -> Tensor:
    """``‖aᵀ b‖²`` of each image (B)."""
    return (a.mT @ b).square().sum(dim=(1, 2))


def _relation(a: Tensor, b: Tensor) -> Tensor:
    """``(a / √C) bᵀ`` of tokens (windows, heads, N, C), as rows (windows · heads · N, N)."""
    return ((a * a.shape[-1] ** -0.5) @ b.mT).flatten(0, -2)


def _split(x: Tensor, heads: int) -> Tensor:
    """(windows, N, C) → (windows, heads, N, C / heads)."""
    return _full(x).unflatten(-1, (heads, -1)).transpose(1, 2)


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's {tuple(student.shape)} cannot be compared with "
            f"the teacher's {tuple(teacher.shape)}"
        )
