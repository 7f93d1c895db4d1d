"""Block-wise reconstruction: each unit learns to give what its dense counterpart gives.

The objective of a unit is the squared error of its outputs, relative to the variance of the dense
ones: ``Σ_layers Σ(half(x̂) − dense(x))² / Σ(dense(x) − mean)²``. Its own input x̂ comes from the
units before it, as they are by then, so that it makes up for their errors as far as it can; the
target comes from the dense model alone.

Source of the idea: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
ICML 2020, and Li et al., "BRECQ", ICLR 2021, for rounded weights.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .units import Unit

_POSITIONS = 1600  # tokens or pixels in a step
_SMALLEST = 0.1  # of the weights' size: what a smaller parameter's learning rate is made of


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How long and how fast a unit learns.

    Attributes:
        steps: Steps of Adam for each unit; 0 leaves it as it started.
        batch_size: Images in a step; None takes as many as have 1600 tokens or pixels at the
            unit's input, and 8 at least.
        lr: How far Adam moves a weight in its first steps, in terms of the root mean square of
            its tensor; it falls to 0 along a cosine.

    Raises:
        ValueError: A number is out of range.
    """

    steps: int = 100
    batch_size: int | None = None
    lr: float = 0.1

    def __post_init__(self) -> None:
        batch_size = 1 if self.batch_size is None else self.batch_size
        if self.steps < 0 or batch_size < 1 or self.lr <= 0:
            raise ValueError(
                f"steps={self.steps}, batch_size={self.batch_size}, lr={self.lr}: the steps must "
                "be 0 or more, the others above 0"
            )

    def images_in_a_step(self, x: Tensor) -> int:
        """The batch size for inputs (images, …), not more than there are."""
        positions = math.prod(x.shape[1:]) // x.shape[channels_of(x)]
        batch_size = self.batch_size or max(8, _POSITIONS // positions)
        return min(batch_size, len(x))


def reconstruct(
    unit: Unit,
    x_half: Tensor,
    x_dense: Tensor,
    targets: Tensor | None,
    *,
    options: Reconstruction,
    generator: torch.Generator,
    advance: Callable[[float], None],
) -> None:
    """Trains a unit.

    Args:
        unit: The unit; its half piece is changed in place.
        x_half: Its inputs behind the units before it (images, …).
        x_dense: The dense piece's inputs (images, …).
        targets: What the dense piece makes of them; None computes that anew in each step, as a
            piece of several layers has several outputs.
        options: Steps, batch size, learning rate.
        generator: Draws the images of each step.
        advance: Called after each step with its error.
    """
    optimizer = torch.optim.Adam(_groups(unit.half, options.lr))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(options.steps, 1))
    batches = _draw(len(x_half), options.images_in_a_step(x_half), generator)
    with _batch_statistics(unit.half):
        for _ in range(options.steps):
            batch = next(batches)
            with torch.no_grad():
                wanted = unit.run_dense(x_dense[batch]) if targets is None else [targets[batch]]
            found = unit.run_half(x_half[batch])
            loss = sum(
                relative_error(half, unit.compared(dense))
                for half, dense in zip(found, wanted, strict=True)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(float(loss.detach()) / len(found))


def relative_error(half: Tensor, dense: Tensor) -> Tensor:
    """Squared error over the dense output's variation within channels: 0 is equal.

    Args:
        half: Tokens (B, N, C) or maps (B, C, H, W).
        dense: What the dense model gives, of the same shape.
    """
    return (half - dense).square().sum() / _variation(dense)


def channels_of(x: Tensor) -> int:
    """The axis of the channels of tokens (B, N, C) or maps (B, C, H, W)."""
    return 1 if x.dim() == 4 else x.dim() - 1


@torch.no_grad()
def error_of(
    unit: Unit, x_half: Tensor, x_dense: Tensor, targets: Tensor | None, *, batch_size: int
) -> float:
    """The relative error on all images, averaged over the layers that a unit stands for."""
    errors: Tensor | float = 0.0
    variations: Tensor | float = 0.0
    for batch in torch.arange(len(x_half)).split(batch_size):
        wanted = unit.run_dense(x_dense[batch]) if targets is None else [targets[batch]]
        wanted = [unit.compared(output) for output in wanted]
        pairs = list(zip(unit.run_half(x_half[batch]), wanted, strict=True))
        errors += torch.stack([(half - dense).square().sum() for half, dense in pairs]).double()
        variations += torch.stack([_variation(dense) for _, dense in pairs]).double()
    return float((errors / variations).mean())


@torch.no_grad()
def estimate_norms(unit: Unit, x_half: Tensor, *, batch_size: int) -> None:
    """Sets the running statistics of a unit's BatchNorms to those of all its inputs."""
    norms = [module for module in unit.half.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    with _batch_statistics(unit.half):
        for batch in x_half.split(batch_size):
            unit.run_half(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _variation(x: Tensor) -> Tensor:
    others = [axis for axis in range(x.dim()) if axis != channels_of(x)]
    return (x - x.mean(others, keepdim=True)).square().sum()


def _groups(module: nn.Module, lr: float) -> list[dict]:
    """Each parameter with a learning rate in its own terms, as those of models differ widely.

    What is (nearly) zero, such as a bias that was just made, moves in terms of the weights.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    sizes = torch.stack([p.detach().square().mean().sqrt() for p in parameters])
    weights = torch.cat([p.detach().flatten() for p in parameters if p.dim() > 1])
    floor = _SMALLEST * weights.square().mean().sqrt()
    rates = (lr * sizes.clamp_min(floor)).tolist()
    return [dict(params=[p], lr=rate) for p, rate in zip(parameters, rates, strict=True)]


def _draw(images: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of numbers of images, without end; each image once before any comes again."""
    while True:
        order = torch.randperm(images, generator=generator)
        yield from order[: images - images % batch_size].split(batch_size)


@contextmanager
def _batch_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorms use the statistics of their batch; all else, such as dropped paths, rests."""
    module.eval()
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.train()
    try:
        yield
    finally:
        module.eval()
