"""What the weights of a dense transformer leave free: changes of them that change no output.

Two weights can only be averaged well if they are written in the same terms. Hidden units and heads
of a dense layer have no order; a head's queries and keys are compared by their products alone, and
its values are read by the output projection alone, so that either pair may be written in another
basis; and a norm's scale may as well be in the weights that read from it. Each function here makes
one such change in place, exactly.

Sources of the idea: Entezari et al., "The Role of Permutation Invariance in Linear Mode
Connectivity of Neural Networks", ICLR 2022 (hidden units); Ashkboos et al., "SliceGPT", ICLR 2024
(invariance of transformers to a change of basis).
"""

import torch
from torch import Tensor, nn

from ..layers import DenseAttention, DenseFFN


@torch.no_grad()
def permute_hidden_units(ffn: DenseFFN, order: Tensor) -> None:
    """Puts hidden unit ``order[i]`` in place ``i``; ``order`` (hidden_dim).

    Signs and scales of hidden units are not free, as GELU(−x) is not −GELU(x).
    """
    for tensor in (ffn.fc1.weight, ffn.fc1.bias):
        tensor.copy_(tensor[order])
    ffn.fc2.weight.copy_(ffn.fc2.weight[:, order])


@torch.no_grad()
def permute_heads(attn: DenseAttention, order: Tensor) -> None:
    """Puts head ``order[i]`` in place ``i``; ``order`` (heads).

    A bias of its logits that differs between heads (Swin's table) has to follow.
    """
    for tensor in (attn.qkv.weight, attn.qkv.bias):
        heads = tensor.unflatten(0, (3, attn.num_heads, -1))
        tensor.copy_(heads[:, order].flatten(0, 2))
    columns = attn.proj.weight.unflatten(1, (attn.num_heads, -1))
    attn.proj.weight.copy_(columns[:, order].flatten(1))


@torch.no_grad()
def change_query_key_basis(attn: DenseAttention, basis: Tensor) -> None:
    """Queries become ``A q`` and keys ``A⁻ᵀ k``, so that all products q · k stay as they are.

    Args:
        attn: The attention.
        basis: An invertible matrix A for each head (heads, head_dim, head_dim).
    """
    dual = torch.linalg.inv(basis).mT
    for tensor in (attn.qkv.weight, attn.qkv.bias):
        heads = tensor.unflatten(0, (3, attn.num_heads, -1))
        columns = heads.flatten(3) if heads.dim() > 3 else heads[..., None]
        queries, keys = basis @ columns[0], dual @ columns[1]
        tensor.copy_(torch.stack((queries, keys, columns[2])).view_as(heads).flatten(0, 2))


@torch.no_grad()
def change_value_basis(attn: DenseAttention, basis: Tensor) -> None:
    """Values become ``B v``, and the output projection reads them by ``B⁻¹``.

    Attention weights add values up within a head, which any matrix B lets through.

    Args:
        attn: The attention.
        basis: An invertible matrix B for each head (heads, head_dim, head_dim).
    """
    for tensor in (attn.qkv.weight, attn.qkv.bias):
        heads = tensor.unflatten(0, (3, attn.num_heads, -1))
        columns = heads[2] if heads.dim() > 3 else heads[2][..., None]
        heads[2].copy_((basis @ columns).view_as(heads[2]))
    weight = attn.proj.weight.unflatten(1, (attn.num_heads, -1)).transpose(0, 1)
    changed = weight @ torch.linalg.inv(basis)
    attn.proj.weight.copy_(changed.transpose(0, 1).flatten(1))


@torch.no_grad()
def rescale_norm(norm: nn.LayerNorm, reader: nn.Linear, scale: Tensor) -> None:
    """Multiplies a norm's channels by ``scale`` (dim), not 0, and divides the weight behind it.

    Args:
        norm: A LayerNorm with weight and bias.
        reader: The only layer that reads from it: ``fc1`` of a feed-forward, ``qkv`` of attention.
        scale: A factor for each channel; it may be negative.
    """
    norm.weight.mul_(scale)
    norm.bias.mul_(scale)
    reader.weight.div_(scale)
