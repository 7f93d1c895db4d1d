"""Halving that was interrupted goes on after the last finished unit."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..checkpoints.contents import check_weights
from ..checkpoints.reading import read_checkpoint
from ..checkpoints.saving import save_checkpoint
from ..errors import UserError
from .report import UnitReport


class Progress:
    """The finished units, in a file beside the target.

    Attributes:
        reports: Those of the finished units.
        seconds_before: Time that interrupted calls have spent on them.
    """

    def __init__(
        self, path: Path, key: str, reports: Sequence[UnitReport] = (), seconds_before: float = 0.0
    ) -> None:
        self.reports = list(reports)
        self.seconds_before = seconds_before
        self._path = path
        self._key = key

    @classmethod
    def of(cls, target: Path, key: str, half: nn.Module) -> "Progress":
        """Looks for what an interrupted call has left, and loads it into the half-weight model.

        Args:
            target: The file that is to be written in the end.
            key: What the call depends on, by :func:`fingerprint`.
            half: The half-weight backbone.

        Raises:
            UserError: What is there belongs to another call, or cannot be read.
        """
        path = target.with_name(f"{target.name}.partial")
        if not path.exists():
            return cls(path, key)
        remove = f"remove it or write to another file than {target.name}"
        try:
            left = read_checkpoint(path)
            found, weights, seconds = left["key"], left["weights"], float(left["seconds"])
            reports = [UnitReport(**report) for report in left["reports"]]
            check_weights(weights, path)
        except (UserError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: this is no unfinished halving; {remove}") from error
        if found != key:
            raise UserError(
                f"{path}: an unfinished halving with another checkpoint, model, images or options; "
                f"repeat the command that began it, or {remove}"
            )
        try:
            half.load_state_dict(weights)
        except (AttributeError, RuntimeError, TypeError) as error:
            raise UserError(f"{path}: this is no unfinished halving; {remove}") from error
        return cls(path, key, reports, seconds)

    def add(self, report: UnitReport, half: nn.Module, *, seconds: float) -> None:
        """Keeps a finished unit; ``seconds`` is what this call has taken until now."""
        self.reports.append(report)
        content = dict(
            key=self._key,
            weights=half.state_dict(),
            seconds=self.seconds_before + seconds,
            reports=[asdict(report) for report in self.reports],
        )
        save_checkpoint(content, self._path)

    def discard(self) -> None:
        """Removes the file, once all is written."""
        self._path.unlink(missing_ok=True)


def fingerprint(modules: Sequence[nn.Module | None], pixels: Tensor, options: Any) -> str:
    """What a halving depends on: the dense weights, the images, and options in plain types."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(options, sort_keys=True, default=str).encode())
    tensors = [t for module in modules if module is not None for t in module.state_dict().values()]
    for tensor in [*tensors, pixels]:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
