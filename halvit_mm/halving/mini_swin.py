"""Pairs Mini-Swin with Swin: a block of the one stands for a group of layers of the other."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn

from ..backbones import MiniSwin
from ..backbones.mini_swin import MiniSwinStage, PatchMerging
from ..layers.sizes import Size, grid_size
from .minivit import Layer, MultiplexedUnit, check_equal, hidden_width
from .units import Pairing


def pair_mini_swin(half: MiniSwin, dense: MiniSwin, size: Size) -> Pairing:
    """Cuts both backbones into groups of layers; copies embeddings, patch mergings and norms.

    Patch merging runs at the start of the unit behind it. Norms of stages that the dense backbone
    does not return stay as they are.

    Args:
        half: The half-weight backbone; it is changed in place. Layers which mask windows that they
            do not shift (``mask_all_steps``) see less than their dense counterparts.
        dense: The dense one, made with ``MiniSwin.dense_twin``.
        size: Height and width of the images in pixels.

    Raises:
        UserError: Their shapes differ.
    """
    _check(half, dense)
    _copy_outside(half, dense)
    return Pairing(
        units=list(_units(half, dense, size)),
        enter_half=lambda images: half._embed(images)[0],
        enter_dense=lambda images: dense._embed(images)[0],
        leave_half=partial(_leave, half),
        leave_dense=partial(_leave, dense),
    )


def _check(half: MiniSwin, dense: MiniSwin) -> None:
    def depths(backbone: MiniSwin) -> list[int]:
        return [stage.num_layers for stage in backbone.stages]

    def heads(backbone: MiniSwin) -> list[int]:
        return [stage.blocks[0].attn.num_heads for stage in backbone.stages]

    def first(backbone: MiniSwin) -> nn.Module:
        return backbone.stages[0].blocks[0]

    check_equal(
        width=(half.num_features[0], dense.num_features[0]),
        layers_of_each_stage=(depths(half), depths(dense)),
        heads_of_each_stage=(heads(half), heads(dense)),
        hidden_width=(hidden_width(first(half)), hidden_width(first(dense))),
        patch_size=(half.patch_size, dense.patch_size),
        number_of_input_channels=(half.patch_embed.in_channels, dense.patch_embed.in_channels),
    )


def _copy_outside(half: MiniSwin, dense: MiniSwin) -> None:
    """Copies all that is not in a block."""
    parts = ["patch_embed", "patch_norm"]
    parts += [f"norm{i}" for i in half.out_indices if i in dense.out_indices]
    parts += [f"stages.{i}.downsample" for i in range(len(half.stages) - 1)]
    for part in parts:
        half.get_submodule(part).load_state_dict(dense.get_submodule(part).state_dict())


def _units(half: MiniSwin, dense: MiniSwin, size: Size) -> Iterator[MultiplexedUnit]:
    size = grid_size(size, (half.patch_size, half.patch_size))
    before_half = before_dense = None
    for i, (half_stage, dense_stage) in enumerate(zip(half.stages, dense.stages, strict=True)):
        half_layers = _layers(half_stage, size, before_half)
        dense_layers = _layers(dense_stage, size, before_dense)
        for j, block in enumerate(half_stage.blocks):
            group = slice(j * half_stage.share, (j + 1) * half_stage.share)
            yield MultiplexedUnit(
                f"stage {i} block {j}",
                half=block,
                dense=dense_stage.blocks[group],
                half_layers=half_layers[group],
                dense_layers=dense_layers[group],
            )
        if half_stage.downsample is not None:
            before_half = _merging(half_stage.downsample, size)
            before_dense = _merging(dense_stage.downsample, size)
            size = grid_size(size, (2, 2))


def _layers(stage: MiniSwinStage, size: Size, before: Layer | None) -> list[Layer]:
    """A stage's layers, the first of them with what comes before the stage."""

    def layer(block: nn.Module, *inputs, before: Layer | None) -> Layer:
        return lambda x: block(x if before is None else before(x), *inputs)

    return [
        layer(*parts, before=None if i else before) for i, parts in enumerate(stage.layers(size))
    ]


def _merging(downsample: PatchMerging, size: Size) -> Layer:
    return lambda x: downsample(x, size)[0]


def _leave(backbone: MiniSwin, x: Tensor) -> Tensor:
    """Mean over the map of the last stage's tokens, normalised where the backbone does so."""
    last = len(backbone.stages) - 1
    if last in backbone.out_indices:
        x = backbone.get_submodule(f"norm{last}")(x)
    return x.mean(dim=1)
