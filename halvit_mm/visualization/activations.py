"""What the layers and stages of a backbone give, as maps."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UserError


@dataclass(frozen=True, eq=False)
class Point:
    """The output of a layer of a vision transformer or of a stage of a ResNet.

    Attributes:
        module: The layer's block, or the stage.
        step: Which of its steps the layer is, of a block that serves several; else None.
        size: Height and width of the map that the layer's tokens make up; None of maps.
        extra: Tokens in front of these.
        stride: Side of a token in pixels of the image; None of maps.
    """

    module: nn.Module
    step: int | None = None
    size: tuple[int, int] | None = None
    extra: int = 0
    stride: int | None = None

    @property
    def kind(self) -> str:
        """What to call it."""
        return "stage" if self.size is None else "layer"

    @contextmanager
    def passage(self) -> Iterator[nn.Module]:
        """A module that the output alone passes through, once in each forward pass.

        A block that serves several layers runs several times; a hook on the block itself would take
        one of them for another.
        """
        passage = nn.Identity()

        def hook(_: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            return passage(output) if self.step in (None, inputs[-1]) else output

        handle = self.module.register_forward_hook(hook)
        try:
            yield passage
        finally:
            handle.remove()

    def to_map(self, output: Tensor) -> Tensor:
        """The output, or its gradient, as maps (B, C, H, W)."""
        if self.size is None:
            return output
        return output[:, self.extra :].transpose(1, 2).unflatten(2, self.size)


def points(backbone: nn.Module, size: tuple[int, int]) -> list[Point]:
    """All layers or stages of a backbone that a forward pass reaches.

    Args:
        backbone: One of this project's.
        size: Height and width of the images in pixels.

    Raises:
        UserError: The backbone is another one.
    """
    if hasattr(backbone, "attention_layers"):
        layers = backbone.attention_layers(size)
        last = backbone.out_indices[-1]  # a layer, or a stage of several
        if hasattr(backbone, "stages"):
            last = sum(stage.num_layers for stage in backbone.stages[: last + 1]) - 1
        extra = getattr(backbone, "num_extra_tokens", 0)
        return [
            Point(
                layer.block,
                layer.inputs[1] if len(layer.inputs) > 1 else None,
                layer.layout.size,
                extra,
                layer.stride,
            )
            for layer in layers[: last + 1]
        ]
    if hasattr(backbone, "stages") and hasattr(backbone, "feat_dim"):
        return [
            Point(getattr(backbone, s)) for s in backbone.stages[: backbone.out_indices[-1] + 1]
        ]
    raise UserError(
        f"{type(backbone).__name__} cannot be looked into; HaLViT, MiniDeiT, MiniSwin, HalfResNet "
        "and HalfResNeXt can"
    )


def check_layers(layers: Iterable[int], count: int, *, option: str = "--layers") -> list[int]:
    """Numbers of layers or stages, in order and from 0; negative ones count from the end.

    Raises:
        UserError: One of them does not exist.
    """
    for i in layers:
        if not -count <= i < count:
            raise UserError(
                f"{option} {i}: this backbone has {count} of them; give 0 to {count - 1}"
            )
    return sorted({i % count for i in layers})


@torch.no_grad()
def activations(backbone: nn.Module, images: Tensor, chosen: Sequence[Point]) -> list[Tensor]:
    """Runs a backbone and returns a map (B, C, H, W) for each of some points."""
    found: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for i, point in enumerate(chosen):
            passage = stack.enter_context(point.passage())

            def keep(_: nn.Module, __: tuple, output: Tensor, i: int = i) -> None:
                found[i] = chosen[i].to_map(output)

            passage.register_forward_hook(keep)
        backbone(images)
    return [found[i] for i in range(len(chosen))]
