"""What is said about a batch whose losses or gradients are not finite."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from .finite import listed

_MOST_IMAGES = 16
#: By what a sample is known, the most telling first.
_KEYS = ("img_path", "img_id", "sample_idx")


@dataclass
class Batch:
    """A batch since the last update: its images, and the losses as the model gave them."""

    samples: list[BaseDataElement]
    losses: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Tensor]:
        """The losses, those of several levels added up, as mmengine does it."""
        return {
            name: sum(one.mean() for one in (value if isinstance(value, list | tuple) else [value]))
            for name, value in self.losses.items()
        }

    def names(self) -> list[str]:
        """The images' files, or their numbers where they have none."""
        return [_name(sample) for sample in self.samples]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one process knows about bad numbers.

    Attributes:
        losses: Losses that are not finite.
        images: Those of the batches whose losses are; where all are finite, of all batches since
            the last update.
    """

    losses: tuple[str, ...]
    images: tuple[str, ...]

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> "Finding":
        """Looks at the batches since the last update."""
        losses: dict[str, float] = {}
        guilty = []
        for batch in batches:
            bad = {k: float(v) for k, v in batch.values().items() if not bool(v.isfinite().all())}
            losses |= bad
            if bad:
                guilty.append(batch)
        return cls(
            losses=tuple(f"{name} is {value}" for name, value in losses.items()),
            images=tuple(name for batch in guilty or batches for name in batch.names()),
        )


def describe(findings: Sequence[Finding], gradients: Sequence[str], *, of: int) -> str:
    """What is not finite, and which images it comes from, in one clause.

    Args:
        findings: Of each process.
        gradients: Names of parameters whose gradients are not finite.
        of: How many parameters have a gradient.
    """
    # Gradients are everybody's after they have been added up, losses are not.
    guilty = [finding for finding in findings if finding.losses] or findings
    parts = list(dict.fromkeys(loss for finding in guilty for loss in finding.losses))
    if gradients:
        parts.append(f"{len(gradients)} of {of} gradients are not finite ({listed(gradients)})")
    images = [name for finding in guilty for name in finding.images]
    where = f", for {listed(images, most=_MOST_IMAGES)}" if images else ""
    return " and ".join(parts or ["the gradients of another process are not finite"]) + where


def samples_of(data_batch: Any) -> Iterator[BaseDataElement]:
    """The samples in what a data loader gave, however deep they lie."""
    if isinstance(data_batch, BaseDataElement):
        yield data_batch
    elif isinstance(data_batch, Mapping):
        for value in data_batch.values():
            yield from samples_of(value)
    elif isinstance(data_batch, Sequence) and not isinstance(data_batch, str | bytes):
        for value in data_batch:
            yield from samples_of(value)


def losses_of(output: Any) -> dict[str, Any]:
    """The losses that a model gave, apart from their graph; empty if it gave something else."""
    if not isinstance(output, Mapping):
        return {}
    return {name: _detached(value) for name, value in output.items() if _is_loss(name, value)}


def _is_loss(name: Any, value: Any) -> bool:
    # mmengine adds up what has this in its name; accuracies and the like are beside the point.
    return "loss" in str(name) and (
        isinstance(value, Tensor)
        or (isinstance(value, list | tuple) and all(isinstance(one, Tensor) for one in value))
    )


def _detached(value: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
    return value.detach() if isinstance(value, torch.Tensor) else [one.detach() for one in value]


def _name(sample: BaseDataElement) -> str:
    for key in _KEYS:
        if (value := sample.get(key)) is not None:
            return str(value) if key == "img_path" else f"{key} {value}"
    return "an image without a name"
