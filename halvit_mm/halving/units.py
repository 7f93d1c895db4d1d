"""What is halved at a time: a piece of a half-weight backbone and dense layers that it replaces."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


class Unit(ABC):
    """A piece of the half-weight backbone whose weights belong together, and its dense counterpart.

    A block of HaLViT stands for one dense block; a block of MiniViT, or a half-weight stage of a
    ResNet, stands for several, and is compared with each of them.

    Attributes:
        name: What reports call it, e.g. ``"block 3"``.
        half: The half-weight piece; it is changed in place.
        dense: The dense piece, never changed.
    """

    name: str
    half: nn.Module
    dense: nn.Module

    @abstractmethod
    def start(self, *, align: bool) -> None:
        """Gives the half piece averages of the dense weights that it stands for.

        Args:
            align: Resolves what a dense piece leaves free first (:mod:`.symmetries`), so that
                weights which mean the same are averaged.
        """

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Fits what only data can tell, after :meth:`start`; most pieces have nothing of the kind.

        Args:
            batches: Inputs of the half piece, as :meth:`run_half` takes them.
        """
        return

    @abstractmethod
    def run_half(self, x: Tensor) -> list[Tensor]:
        """What the half piece makes of its input, after each dense layer it stands for."""

    @abstractmethod
    def run_dense(self, x: Tensor) -> list[Tensor]:
        """What each layer of the dense piece makes of its input; the last is the piece's output."""

    def compared(self, output: Tensor) -> Tensor:
        """The part of a dense output that the half piece has as well, in its shape."""
        return output


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """A half-weight backbone and a dense one, cut into units.

    What is not in a unit (embeddings, dense stages, the last norm) is copied before.

    Attributes:
        units: The units, in the order in which they run.
        enter_half, enter_dense: Images (B, 3, height, width) → the input of the first unit.
        leave_half, leave_dense: Output of the last unit → features (B, C) for a linear head.
    """

    units: Sequence[Unit]
    enter_half: Callable[[Tensor], Tensor]
    enter_dense: Callable[[Tensor], Tensor]
    leave_half: Callable[[Tensor], Tensor]
    leave_dense: Callable[[Tensor], Tensor]
