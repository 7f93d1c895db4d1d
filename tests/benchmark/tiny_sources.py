"""Models that the processes of the benchmark can make: small, slow, tied, failing."""

import os
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from halvit_mm.benchmark.comparisons import Comparison, Contestant
from halvit_mm.benchmark.sources import Source

SIZE = (8, 8)
CLASSES = 10


class Tied(nn.Module):
    """A backbone with one weight of 192 × 192 in two uses, and a layer for the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"first": nn.Linear(192, 192), "second": nn.Linear(192, 192)})
        self.backbone["second"].weight = self.backbone["first"].weight
        self.head = nn.Linear(192, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.backbone["second"](self.backbone["first"](x.flatten(1)).relu())
        return self.head(x)


class Slow(nn.Module):
    """Takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.fc = nn.Linear(192, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return self.fc(x.flatten(1))


class Hungry(Slow):
    """Holds so many MiB for a moment in each step."""

    def forward(self, x: Tensor) -> Tensor:
        torch.ones(int(self.seconds) * 2**18).sum()
        return self.fc(x.flatten(1))


class Failing(Slow):
    """Fails in its third step, which is the first in a round."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        if self.steps == 3:
            self.fail()
        return super().forward(x)

    def fail(self) -> None:
        raise ValueError("out of luck\nand more")


class Dying(Failing):
    """Its process ends in its third step."""

    def fail(self) -> None:
        os._exit(7)


@dataclass(frozen=True)
class Tiny:
    """One of the models here."""

    model: type[nn.Module]
    value: float | None = None
    requires = ()

    def load(self) -> None:
        """All is here."""

    def build(self) -> nn.Module:
        return self.model() if self.value is None else self.model(self.value)


def against(ours: Source, *peers: Source) -> Comparison:
    """A comparison of these; the peers are called peer 1, peer 2 …"""
    return Comparison(
        ours=Contestant(label="ours", source=ours),
        peers=tuple(
            Contestant(label=f"peer {number}", source=peer) for number, peer in enumerate(peers, 1)
        ),
        size=SIZE,
        classes=CLASSES,
        batches=(2,),
    )
