"""What halving a model cost and kept, for the terminal and as JSON."""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import temporary_beside


@dataclass(frozen=True, kw_only=True)
class UnitReport:
    """How well one unit stands for its dense layers on the calibration images.

    An error is Σ(half − dense)² / Σ(dense − its mean over images and tokens)², averaged over the
    layers that the unit stands for: 0 is the dense unit itself, 1 as bad as a constant. The half
    unit's input comes from the half-weight units before it, so that it has their errors.

    Attributes:
        name: The unit's name, e.g. ``"block 3"``.
        parameters_dense, parameters_half: Its parameters.
        error_start: The error with the averaged weights.
        error: The error at the end.
        seconds: Time spent on the unit.
    """

    name: str
    parameters_dense: int
    parameters_half: int
    error_start: float
    error: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All about one halving.

    Attributes:
        source: The dense checkpoint.
        checkpoint: The half-weight checkpoint that was written.
        config: The half-weight model's config.
        method: ``"average"``, ``"aligned"`` or ``"reconstruction"``.
        options: What the method was told, in plain types of JSON.
        units: The units in the order in which they run.
        parameters_dense, parameters_half: Of the whole models, with a head where there is one.
        corrections: Parameters of the half model that optional corrections add.
        bytes_dense, bytes_half: Of the tensors of both models.
        images: Calibration images; 0 if there were none.
        agreement: Share of these images for which half and dense model predict the same class, from
            0 to 1; None without a head or images.
        divergence: Mean Kullback–Leibler divergence from the dense to the half predictions, in
            nats; None likewise.
        seconds: Time in all.
        peak_memory: Most memory that the process held, in bytes; 0 where it is not known.
        left_out: Parts of the source that are not used, with their numbers of tensors.
        notes: Further sentences.
    """

    source: str
    checkpoint: str
    config: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    units: tuple[UnitReport, ...]
    parameters_dense: int
    parameters_half: int
    corrections: int = 0
    bytes_dense: int
    bytes_half: int
    images: int
    agreement: float | None = None
    divergence: float | None = None
    seconds: float
    peak_memory: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """A row for each unit, in aligned columns of plain text."""
        rows = [("unit", "dense", "half", "error at first", "error", "time")]
        for unit in self.units:
            counts = f"{unit.parameters_dense:,}", f"{unit.parameters_half:,}"
            errors = f"{unit.error_start:.3g}", f"{unit.error:.3g}"
            rows.append((unit.name, *counts, *errors, duration(unit.seconds)))
        return _aligned(rows)

    def lines(self) -> list[str]:
        """The table and a finding a line; the last one says how to use what was written."""
        told = ", ".join(f"{name} {value}" for name, value in self.options.items())
        corrected = f", {self.corrections:,} of them corrections" if self.corrections else ""
        lines = [
            *self.table().split("\n"),
            "",
            f"{self.source} → {self.checkpoint}, for {self.config}",
            f"method: {self.method}" + (f" ({told})" if told else ""),
            f"parameters: {self.parameters_dense:,} → {self.parameters_half:,} "
            f"({self.parameters_half / self.parameters_dense:.1%}){corrected}",
            f"bytes: {megabytes(self.bytes_dense)} → {megabytes(self.bytes_half)} "
            f"({self.bytes_half / self.bytes_dense:.1%})",
        ]
        if self.agreement is not None:
            apart = "" if self.divergence is None else f", {self.divergence:.3g} nats apart"
            lines.append(
                f"agreement: the dense model's class on {self.agreement:.1%} of "
                f"{self.images:,} calibration images{apart}"
            )
        if self.left_out:
            parts = (f"{part} ({tensors} tensors)" for part, tensors in self.left_out.items())
            lines.append(f"left out of the source: {', '.join(parts)}")
        lines += self.notes
        memory = f", at most {self.peak_memory / 2**30:.2g} GiB" if self.peak_memory else ""
        lines.append(f"it took {duration(self.seconds)}{memory}")
        return [*lines, self._use()]

    def _use(self) -> str:
        file, config = shlex.quote(self.checkpoint), shlex.quote(self.config)
        if self.agreement is None:
            return (
                f"the weights are in {self.checkpoint}: start a backbone from them by "
                f'init_cfg=dict(type="PretrainedBackbone", checkpoint="{self.checkpoint}")'
            )
        return (
            f"the weights are in {self.checkpoint}: fine-tune them by "
            f"`python tools/train.py {config} --load-from {file}`"
        )

    def save(self, path: str | Path) -> None:
        """Writes the report as JSON, whole or not at all.

        Raises:
            UserError: ``path`` cannot be written.
        """
        path = Path(path)
        with temporary_beside(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Reads what :meth:`save` wrote.

        Raises:
            UserError: The file cannot be read, or is something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            units = tuple(UnitReport(**unit) for unit in content.pop("units"))
            return cls(**{**content, "units": units, "notes": tuple(content["notes"])})
        except OSError as error:
            raise UserError(f"{path}: cannot read the report ({error.strerror})") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            wanted = ", ".join(f.name for f in fields(cls)[:3])
            raise UserError(
                f"{path}: this is no report of tools/halve.py, with {wanted}, …; name the .json "
                "beside the weights"
            ) from error


def duration(seconds: float) -> str:
    """Tenths of a second below a minute, or else hours, minutes and seconds as ``1:02:03``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"


def megabytes(number: int) -> str:
    """Bytes as MB, of 10⁶ bytes each."""
    return f"{number / 1e6:,.1f} MB" if number >= 1e5 else f"{number / 1e6:.2g} MB"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns apart by two spaces, the first one of text and the others of numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])])
        for first, *others in rows
    )
