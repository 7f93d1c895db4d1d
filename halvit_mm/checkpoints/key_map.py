"""What the readers of all sources share: renaming, checking that all is there, and the result."""

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import nn

from ..errors import UserError
from .reading import StateDict

_SHOWN = 3  # of each kind of names, in an error


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Weights in this project's names, and what is known about them.

    Attributes:
        state_dict: The weights of a classifier: ``backbone.…``, and ``head.fc.…`` if there is one.
        source: What the weights were read from, in words.
        backbone: Config of the backbone that they belong to.
        config: The repository's config that comes nearest.
        cfg_options: What must be set in ``config`` for this backbone and head, by full keys.
        fresh: Parts of the model that the weights lack, so that they stay freshly initialised.
        left_out: Parts of the source that are not used, with their numbers of tensors.
        share: Share of the backbone's parameters that the weights fill, from 0 to 1.
        img_size: Side in pixels of the images that the weights are for, where it is known.
        resized: Names that have been resampled for other sizes than the source's.
    """

    state_dict: StateDict
    source: str
    backbone: dict[str, Any]
    config: str
    cfg_options: dict[str, Any] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    share: float = 1.0
    img_size: int | None = None
    resized: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """All but the weights, in plain types."""
        facts = {key: value for key, value in vars(self).items() if key != "state_dict"}
        lists = {"fresh": list(self.fresh), "resized": list(self.resized)}
        return {**facts, **lists, "tensors": len(self.state_dict)}

    def summary(self, path: str = "FILE") -> str:
        """What was read, what is missing and how to use it at ``path``, one finding a line."""
        options = [f"{key}={value}".replace(" ", "") for key, value in self.cfg_options.items()]
        lines = [
            f"{self.source}: {len(self.state_dict)} tensors",
            f"fits {self.config}" + (f" --cfg-options {shlex.join(options)}" if options else ""),
        ]
        if self.img_size:
            lines.append(f"for images of {self.img_size} pixels")
        if self.resized:
            lines.append(f"resampled to that size: {first_names(list(self.resized))}")
        if self.left_out:
            parts = (f"{part} ({tensors} tensors)" for part, tensors in self.left_out.items())
            lines.append(f"left out: {', '.join(parts)}")
        if self.fresh:
            lines.append(f"not among the weights, so freshly initialised: {', '.join(self.fresh)}")
        if self.share < 1:
            min_fraction = math.floor(100 * self.share) / 100
            lines.append(
                f'start from it by init_cfg=dict(type="PretrainedBackbone", checkpoint="{path}", '
                f"min_fraction={min_fraction}), with norm_eval=False, as fresh BatchNorms have no "
                "statistics yet"
            )
        return "\n".join(lines)


class KeyMap:
    """Names in a source and in this project.

    Args:
        table: The source's name of a module or tensor → this project's; ``*`` stands for a number.
            ``{"final_bns.*": "blocks.*.bn3"}`` turns ``final_bns.2.weight`` into
            ``blocks.2.bn3.weight`` and back. No two rows may lead to the same name.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        self._rows = [(_pattern(theirs), ours) for theirs, ours in table.items()]
        self._back = [(_pattern(ours), theirs) for theirs, ours in table.items()]

    def ours(self, name: str) -> str | None:
        """This project's name, or None if the table lacks the source's."""
        return _rename(name, self._rows)

    def theirs(self, name: str) -> str | None:
        """The source's name, or None if the table lacks this project's."""
        return _rename(name, self._back)

    def rename(self, weights: StateDict, model: nn.Module, *, title: str) -> StateDict:
        """The weights in this project's names, in the order of ``model``.

        BatchNorms without a count of batches, as files from before PyTorch 0.4.1 have them, start
        to count at 0.

        Args:
            weights: Weights in the source's names.
            model: The model that they belong to; its names and shapes are all that matters.
            title: What the weights are, for the error.

        Raises:
            UserError: The weights are not the model's, name by name and shape by shape. The error
                has the source's names.
        """
        expected = model.state_dict()
        found = {self.ours(name): value.detach() for name, value in weights.items()}
        for name, value in expected.items():
            if name.endswith("num_batches_tracked"):
                found.setdefault(name, value.new_zeros((), device="cpu"))

        unknown = [name for name in weights if self.ours(name) not in expected]
        missing = [self.theirs(name) or name for name in expected if name not in found]
        shapes = [
            f"{self.theirs(name)} is {tuple(found[name].shape)}, not {tuple(value.shape)}"
            for name, value in expected.items()
            if name in found and found[name].shape != value.shape
        ]
        problems = [
            *([f"missing {first_names(missing)}"] if missing else []),
            *([f"unknown {first_names(unknown)}"] if unknown else []),
            *([f"of a wrong width: {first_names(shapes)}"] if shapes else []),
        ]
        if problems:
            raise UserError(
                f"the weights do not make a whole {title}: {'; '.join(problems)}. "
                "Download the file again, or give it as its model saved it"
            )
        return {name: found[name] for name in expected}


def weightless_classifier(
    backbone: dict[str, Any], *, width: int, num_classes: int | None
) -> nn.Module:
    """The names and shapes of a classifier's tensors, without memory for its weights.

    Args:
        backbone: Config of the backbone.
        width: Width of the features that the head reads.
        num_classes: Of the head; None leaves it out.
    """
    with torch.device("meta"):
        model = nn.Module()
        model.backbone = MODELS.build(backbone)
        if num_classes is not None:
            model.head = nn.Module()
            model.head.fc = nn.Linear(width, num_classes)
    return model


def head_classes(weights: StateDict, head: str) -> int | None:
    """Classes of the linear layer ``head``; None if there is no such layer."""
    rows = [v.shape[0] for k, v in weights.items() if k.startswith(f"{head}.") and v.ndim]
    return rows[0] if rows else None


def _pattern(name: str) -> re.Pattern:
    return re.compile(re.escape(name).replace(r"\*", r"(\d+)") + r"(\..+)?")


def _rename(name: str, rows: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, target in rows:
        if match := pattern.fullmatch(name):
            *numbers, rest = match.groups(default="")
            for number in numbers:
                target = target.replace("*", number, 1)
            return target + rest
    return None


def first_names(names: list[str]) -> str:
    """The first few of a list of names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
