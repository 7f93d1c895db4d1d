"""The levels on which a student can follow a teacher, and which layers are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..layers import LayerFeatures
from .losses import FORMS

Pairs = tuple[tuple[int, int], ...]

#: Layers of Mini-Swin and of a Swin of 24 layers that are compared, from 0, by the number of
#: layers of the student. Source: MiniViT's reference code, its training commands.
PUBLISHED_PAIRS: dict[int, Pairs] = {
    12: ((1, 1), (3, 3), (5, 9), (7, 15), (9, 21), (11, 23)),
    24: tuple((i, i) for i in (1, 3, 9, 15, 21, 23)),
}
_PUBLISHED_TEACHER = 24


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Prediction level: see :func:`~halvit_mm.distillation.losses.prediction_loss`."""

    weight: float = 1.0
    form: str = "cross_entropy"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check_weight("prediction", self.weight)
        if self.form not in FORMS:
            raise ValueError(
                f"distillation.prediction.form={self.form!r} is unknown: choose one of {FORMS}"
            )
        if not self.temperature > 0:
            raise ValueError(
                f"distillation.prediction.temperature={self.temperature} must be above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention level: see :func:`~halvit_mm.distillation.losses.attention_relation_loss`.

    ``layers`` are pairs (student's layer, teacher's layer), from 0.
    """

    weight: float = 1.0
    layers: Sequence[Sequence[int]] | None = None
    heads: int = 1

    def __post_init__(self) -> None:
        _check_weight("attention", self.weight)
        if not isinstance(self.heads, int) or self.heads < 1:
            raise ValueError(f"distillation.attention.heads={self.heads} must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """Hidden level: see :func:`~halvit_mm.distillation.losses.hidden_relation_loss`."""

    weight: float = 0.1
    layers: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        _check_weight("hidden", self.weight)


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What is asked for; None leaves a level out."""

    prediction: Prediction | None
    attention: Attention | None
    hidden: Hidden | None

    @classmethod
    def parse(cls, distillation: Mapping[str, Any]) -> "Levels":
        """From a config's dict of dicts.

        Raises:
            ValueError: A level is unknown or has a wrong value, or there is none.
            TypeError: A level has an unknown option.
        """
        kinds = dict(prediction=Prediction, attention=Attention, hidden=Hidden)
        given = {name: options for name, options in distillation.items() if options is not None}
        if not given or not given.keys() <= kinds.keys():
            raise ValueError(
                f"distillation has the levels {sorted(distillation)}: choose among {tuple(kinds)}"
            )
        return cls(
            **{name: kind(**given[name]) if name in given else None for name, kind in kinds.items()}
        )

    @property
    def of_layers(self) -> dict[str, Attention | Hidden]:
        """Those that compare layers, by name."""
        both = dict(attention=self.attention, hidden=self.hidden)
        return {name: level for name, level in both.items() if level is not None}


def choose_pairs(
    name: str, level: Attention | Hidden, *, student: tuple[str, int], teacher: tuple[str, int]
) -> Pairs:
    """The layers that a level compares: those that it names, or the published ones.

    Args:
        name: The level.
        level: Its options.
        student: Class and number of layers of the student's backbone.
        teacher: Those of the teacher's.

    Raises:
        UserError: A layer does not exist, or nothing is named and nothing published.
    """
    option = f"model.distillation.{name}.layers"
    pairs = level.layers
    if pairs is None:
        if student[0] == "MiniSwin" and teacher[1] == _PUBLISHED_TEACHER:
            pairs = PUBLISHED_PAIRS.get(student[1])
        if pairs is None:
            raise UserError(
                f"{option} is not set and nothing is published for a {student[0]} of {student[1]} "
                f"layers beside a {teacher[0]} of {teacher[1]}: name pairs of (student's layer, "
                "teacher's layer), counted from 0"
            )
    try:
        pairs = tuple((int(own), int(other)) for own, other in pairs)
    except (TypeError, ValueError):
        pairs = ()
    if not pairs:
        raise UserError(
            f"{option}={level.layers}: write pairs of (student's layer, teacher's layer), as in "
            "[(1, 1), (3, 3)]"
        )
    for own, other in pairs:
        for layer, who, (kind, count) in ((own, "student", student), (other, "teacher", teacher)):
            if not 0 <= layer < count:
                raise UserError(
                    f"{option} has ({own}, {other}): the {who}'s {kind} has the layers 0 to "
                    f"{count - 1}"
                )
    return pairs


def check_pair(
    name: str,
    level: Attention | Hidden,
    pair: tuple[int, int],
    student: LayerFeatures,
    teacher: LayerFeatures,
    size: Sequence[int],
) -> None:
    """Whether a level can compare two layers.

    Args:
        name: The level.
        level: Its options.
        pair: Numbers of the student's and the teacher's layer.
        student: The student's features.
        teacher: The teacher's features, of the same images.
        size: Height and width of the images.

    Raises:
        UserError: There is no relation of the same shape in both.
    """
    own, other = pair
    place = f"model.distillation.{name}: layer {own} of the student and layer {other} of the"
    if name == "attention":
        kind, unit = "windows", "windows × tokens × channels"
        tensors = (student.qkv[0], teacher.qkv[0])
        for tensor in tensors:
            if tensor.shape[-1] % level.heads:
                raise UserError(
                    f"{place} teacher: heads={level.heads} does not divide the width "
                    f"{tensor.shape[-1]}; choose a number that does"
                )
    else:
        kind, unit = "tokens", "images × tokens × channels"
        tensors = (student.hidden, teacher.hidden)
    if tensors[0].shape[:2] != tensors[1].shape[:2]:
        shapes = " and ".join(" × ".join(map(str, tensor.shape)) for tensor in tensors)
        raise UserError(
            f"{place} teacher have other {kind}, {shapes} ({unit}), for images of {size[0]} × "
            f"{size[1]} pixels: pair layers of one resolution and window, or leave the level out"
        )


def _check_weight(name: str, weight: float) -> None:
    if not weight > 0:
        raise ValueError(
            f"distillation.{name}.weight={weight} must be above 0: leave the level out instead"
        )
