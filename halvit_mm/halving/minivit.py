"""Blocks of MiniViT: one block with small parts for each step stands for several dense layers."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..layers import MultiplexedBlock, TiedFFN
from ..layers.multiplexed import HeadMixer, LocalConv
from .averaging import average_attention, average_ffn
from .symmetries import rescale_norm
from .units import Unit

#: Tokens (B, N, C) → tokens after one layer.
Layer = Callable[[Tensor], Tensor]


class MultiplexedUnit(Unit):
    """A block of MiniViT with all its steps, and the dense layers of the same numbers.

    If these layers are equal but for their LayerNorms, the block computes what they compute from
    the start: its steps take over the LayerNorms, mix heads by the identity, and add no relative
    positions (Mini-DeiT). A local convolution (Mini-Swin) is the exception; see :meth:`fit`.

    Args:
        name: What reports call it.
        half: The block.
        dense: A block of one step for each of its steps.
        half_layers: The block's steps as their backbone runs them.
        dense_layers: The dense blocks as their backbone runs them.
        extra_tokens: Tokens in front that the dense layers alone have, such as a class token.
    """

    def __init__(
        self,
        name: str,
        *,
        half: MultiplexedBlock,
        dense: Sequence[MultiplexedBlock],
        half_layers: Sequence[Layer],
        dense_layers: Sequence[Layer],
        extra_tokens: int = 0,
    ) -> None:
        self.name = name
        self.half = half
        self.dense = nn.ModuleList(dense)
        self.half_layers = half_layers
        self.dense_layers = dense_layers
        self.extra_tokens = extra_tokens

    @torch.no_grad()
    def start(self, *, align: bool) -> None:
        half, dense = self.half, self.dense
        if align and len(half.norm1) == len(dense):
            dense = deepcopy(dense)
            _even_out([layer.norm1[0] for layer in dense], [layer.attn.qkv for layer in dense])
            _even_out([layer.norm2[0] for layer in dense], [layer.ffn.fc1 for layer in dense])
        average_ffn(half.ffn, [layer.ffn for layer in dense], align=align)
        orders = average_attention(half.attn, [layer.attn for layer in dense], align=align)
        _take_over(half.norm1, [layer.norm1[0] for layer in dense])
        _take_over(half.norm2, [layer.norm2[0] for layer in dense])
        if isinstance(half.rel_pos, nn.ModuleList):
            for rel_pos in half.rel_pos:
                nn.init.zeros_(rel_pos.table)
        elif half.rel_pos is not None:
            tables = [
                layer.rel_pos.table[:, order] for layer, order in zip(dense, orders, strict=True)
            ]
            # Loaded, as this resamples the tables of other windows.
            half.rel_pos.load_state_dict({"table": torch.stack(tables).mean(0)})
        for mixer in (*(half.mix_logits or ()), *(half.mix_weights or ())):
            _mix_nothing(mixer)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Brings local convolutions as near to the identity as they can get.

        ``x ← n + DWConv(n)`` with ``n = LN(x)`` forgets how long each token of the residual stream
        was. The convolution starts at zero, and the norm's weight and bias are the least squares
        solution of ``LN(x) = x`` over all tokens, channel by channel, step after step.
        """
        if self.half.local is None:
            return
        batches = list(batches)
        for layer, local in zip(self.half_layers, self.half.local, strict=True):
            _fit_local(layer, local, batches)
            batches = [layer(x) for x in batches]

    def run_half(self, x: Tensor) -> list[Tensor]:
        return _run(self.half_layers, x)

    def run_dense(self, x: Tensor) -> list[Tensor]:
        return _run(self.dense_layers, x)

    def compared(self, output: Tensor) -> Tensor:
        return output[:, self.extra_tokens :]


def check_equal(**values: tuple[object, object]) -> None:
    """Refuses a pair of backbones that do not fit each other.

    Args:
        values: What must be equal (underscores stand for spaces): of the half-weight backbone and
            of the dense one.

    Raises:
        UserError: Something differs.
    """
    for name, (half, dense) in values.items():
        if half != dense:
            raise UserError(
                f"the dense model cannot be halved into this config: its {name.replace('_', ' ')} "
                f"is {dense} and the config's is {half}; choose a config with {dense}"
            )


def hidden_width(block: MultiplexedBlock) -> int:
    """Width of the hidden layer of a block's feed-forward."""
    ffn = block.ffn
    return len(ffn.bias_in if isinstance(ffn, TiedFFN) else ffn.fc1.bias)


def _run(layers: Sequence[Layer], x: Tensor) -> list[Tensor]:
    outputs = []
    for layer in layers:
        x = layer(x)
        outputs.append(x)
    return outputs


def _even_out(norms: Sequence[nn.LayerNorm], readers: Sequence[nn.Linear]) -> None:
    """Makes the weights behind norms alike: what a step's own norm can do, it does.

    A norm's channel may grow as the column that reads it shrinks. All layers' columns get the
    lengths that they have on average.
    """
    lengths = torch.stack([reader.weight.norm(dim=0) for reader in readers])
    for norm, reader, length in zip(norms, readers, lengths, strict=True):
        scale = length / lengths.mean(0)
        rescale_norm(norm, reader, torch.where(length > 0, scale, 1))


def _take_over(norms: nn.ModuleList, dense: Sequence[nn.LayerNorm]) -> None:
    """Each step's norm is that of its layer; one that all steps share is their average."""
    groups = [[norm] for norm in dense] if len(norms) == len(dense) else [dense]
    for norm, group in zip(norms, groups, strict=True):
        for name, parameter in norm.named_parameters():
            parameter.copy_(torch.stack([one.get_parameter(name) for one in group]).mean(0))


def _mix_nothing(mixer: HeadMixer) -> None:
    nn.init.eye_(mixer.weight)
    if mixer.bias is not None:
        nn.init.zeros_(mixer.bias)


def _fit_local(layer: Layer, local: LocalConv, batches: Sequence[Tensor]) -> None:
    nn.init.zeros_(local.conv.weight)
    nn.init.zeros_(local.conv.bias)
    sums = torch.zeros(5, local.norm.weight.numel(), dtype=torch.float64)

    def collect(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, 1).double()
        n = F.layer_norm(x, x.shape[-1:], eps=local.norm.eps)
        moments = (torch.ones_like(x), x, n, n * x, n * n)
        sums.add_(torch.stack([moment.sum(0) for moment in moments]).to(sums))

    handle = local.register_forward_pre_hook(collect)
    try:
        for x in batches:
            layer(x)
    finally:
        handle.remove()
    mean_x, mean_n, mean_nx, mean_nn = sums[1:] / sums[0]
    # A channel that is the same in all tokens has no slope.
    variance = (mean_nn - mean_n**2).clamp_min(1e-12)
    slope = (mean_nx - mean_n * mean_x) / variance
    local.norm.weight.copy_(slope)
    local.norm.bias.copy_(mean_x - slope * mean_n)
