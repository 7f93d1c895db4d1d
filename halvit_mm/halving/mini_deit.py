"""Pairs Mini-DeiT with DeiT: a block of the one stands for a group of layers of the other."""

from functools import partial

import torch

from ..backbones import MiniDeiT
from ..errors import UserError
from ..layers import resize_position_embedding
from ..layers.sizes import Size, grid_size
from .minivit import Layer, MultiplexedUnit, check_equal, hidden_width
from .units import Pairing
from .vits import features


def pair_mini_deit(half: MiniDeiT, dense: MiniDeiT, size: Size) -> Pairing:
    """Cuts both backbones into groups of layers, and copies embeddings and the last norm.

    Args:
        half: The half-weight backbone; it is changed in place.
        dense: The dense one, made with ``MiniDeiT.dense_twin``. It may have a class token which
            the other has not: patches attend to it there, but it is not compared.
        size: Height and width of the images in pixels.

    Raises:
        UserError: Their shapes differ, or only the half-weight one has a class token.
    """
    check_equal(
        width=(half.embed_dims, dense.embed_dims),
        number_of_layers=(half.num_layers, dense.num_layers),
        number_of_heads=(half.num_heads, dense.num_heads),
        hidden_width=(hidden_width(half.blocks[0]), hidden_width(dense.blocks[0])),
        patch_size=(half.patch_size, dense.patch_size),
        number_of_input_channels=(half.patch_embed.in_channels, dense.patch_embed.in_channels),
    )
    if half.num_extra_tokens > dense.num_extra_tokens:
        raise UserError(
            "the dense model has no class token, but the config's backbone has one: "
            "set with_cls_token=False there"
        )
    _copy_ends(half, dense)
    size = grid_size(size, (half.patch_size, half.patch_size))
    half_layers, dense_layers = _layers(half, size), _layers(dense, size)
    return Pairing(
        units=[
            MultiplexedUnit(
                f"block {i}",
                half=block,
                dense=dense.blocks[i * half.share : (i + 1) * half.share],
                half_layers=half_layers[i * half.share : (i + 1) * half.share],
                dense_layers=dense_layers[i * half.share : (i + 1) * half.share],
                extra_tokens=dense.num_extra_tokens - half.num_extra_tokens,
            )
            for i, block in enumerate(half.blocks)
        ],
        enter_half=lambda images: half._embed(images)[0],
        enter_dense=lambda images: dense._embed(images)[0],
        leave_half=partial(features, half),
        leave_dense=partial(features, dense),
    )


@torch.no_grad()
def _copy_ends(half: MiniDeiT, dense: MiniDeiT) -> None:
    half.patch_embed.load_state_dict(dense.patch_embed.state_dict())
    extra = dense.num_extra_tokens
    patches = resize_position_embedding(dense.pos_embed[:, extra:], dense.grid_size, half.grid_size)
    half.pos_embed[:, half.num_extra_tokens :] = patches
    if half.cls_token is not None:
        half.cls_token.copy_(dense.cls_token)
        half.pos_embed[:, :extra] = dense.pos_embed[:, :extra]
    if type(half.norm) is type(dense.norm):
        half.norm.load_state_dict(dense.norm.state_dict())


def _layers(backbone: MiniDeiT, size: Size) -> list[Layer]:
    def layer(index: int) -> Layer:
        block, inputs = backbone._layer(index, size)
        return lambda x: block(x, *inputs)

    return [layer(i) for i in range(backbone.num_layers)]
