"""Inference without BatchNorms: they become part of the convolutions in front of them."""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ..errors import UserError

#: What each norm of a class follows: the name of a convolution; ``"shared"`` for a product with a
#: weight that other layers use, too; ``"input"`` for the input itself. Other classes say it of
#: themselves by an attribute ``norm_follows``.
_NORM_FOLLOWS = {
    ResNet: {"bn1": "conv1"},
    BasicBlock: {"bn1": "conv1", "bn2": "conv2"},
    Bottleneck: {"bn1": "conv1", "bn2": "conv2", "bn3": "conv3"},
}


class FoldedNorm(nn.Module):
    """Stands where a BatchNorm was that a convolution has taken in; it does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Gives the input back."""
        return x

    def train(self, mode: bool = True) -> "FoldedNorm":
        """Refuses training mode.

        Raises:
            UserError: ``mode`` is True: statistics and weights are parts of the convolutions now.
        """
        if mode:
            raise UserError(
                "a model whose BatchNorms are folded cannot be trained: build it anew and load the "
                "checkpoint that it was folded from"
            )
        return super().train(mode)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        if prefix + "running_mean" in state_dict:
            raise UserError(
                f"the checkpoint has the BatchNorm '{prefix[:-1]}', which this model has folded: "
                "load the checkpoint first and fold afterwards"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class ChannelAffine(FoldedNorm):
    """A BatchNorm with nothing to fold it into: ``y = scale · x + shift`` for each channel.

    Args:
        scale: Scale of each channel (C).
        shift: Shift of each channel (C).
        inplace: Overwrites the input.

    Buffers: ``scale`` and ``shift`` (C, 1, 1).
    """

    def __init__(self, scale: Tensor, shift: Tensor, *, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        x = x.mul_(self.scale) if self.inplace else x * self.scale
        return x.add_(self.shift)

    def extra_repr(self) -> str:
        return f"{len(self.scale)}, inplace={self.inplace}"


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Makes the BatchNorms of a CNN part of its convolutions, in place, for inference only.

    A convolution takes in the norms right behind it: those of this project's CNNs and of
    torchvision's ResNets, and those in any ``nn.Sequential``. In a half-weight stage the norms
    behind W and Wᵀ are each block's own and W is not: they become a scale and a shift for each
    channel, so that W stays one. Norms elsewhere, and norms other than BatchNorm, are left alone.

    The results are those of evaluation mode up to rounding. From then on the model refuses to be
    trained, and its state dict is another: convolutions have biases, norms are gone. Checkpoints
    are therefore loaded before; a folded state dict fits a model that was folded as well.

    Args:
        module: A backbone, or a whole detector or classifier, in evaluation mode.

    Returns:
        The module itself.

    Raises:
        UserError: A norm is in training mode. Nothing is changed then.
    """
    plan = list(_plan(module))
    if any(norm.training for _, _, norm, _ in plan):
        raise UserError("BatchNorms are folded in evaluation mode only: call model.eval() first")
    for owner, name, norm, follows in plan:
        # In double precision, so that the only rounding is that of the result.
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.affine:
            scale = scale * norm.weight.detach().double()
        shift = -norm.running_mean.double() * scale
        if norm.affine:
            shift = shift + norm.bias.detach().double()
        if isinstance(follows, nn.Conv2d):
            _fold_into(follows, scale, shift)
            folded = FoldedNorm()
        else:
            dtype = norm.running_mean.dtype
            folded = ChannelAffine(scale.to(dtype), shift.to(dtype), inplace=follows == "shared")
        owner.add_module(name, folded.eval())
    return module


def _fold_into(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    weight = conv.weight.detach()
    if conv.bias is not None:
        shift = shift + scale * conv.bias.detach().double()
    # Stays laid out as it was, be it channels_last.
    folded = torch.empty_like(weight).copy_(weight.double() * scale[:, None, None, None])
    conv.weight = nn.Parameter(folded, requires_grad=False)
    conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def _plan(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module, nn.Conv2d | str]]:
    """Each norm to replace: its owner, its name there, itself, and what it follows."""
    uses = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))

    def takes_norms(layer: nn.Module) -> bool:
        # Subclasses may compute their weight, and a weight with two names has other uses.
        return type(layer) is nn.Conv2d and uses[id(layer.weight)] == 1

    for owner in module.modules():
        if type(owner).forward is nn.Sequential.forward:
            conv = None
            for name, layer in owner.named_children():
                if conv is not None and _is_batch_norm(layer):
                    yield owner, name, layer, conv
                else:
                    conv = layer if takes_norms(layer) else None
        follows = _NORM_FOLLOWS.get(type(owner), getattr(owner, "norm_follows", {}))
        for name, source in follows.items():
            norm = getattr(owner, name, None)
            if not _is_batch_norm(norm):
                continue
            if source in ("shared", "input"):
                yield owner, name, norm, source
            elif takes_norms(getattr(owner, source)):
                yield owner, name, norm, getattr(owner, source)


def _is_batch_norm(layer: nn.Module | None) -> bool:
    known = isinstance(layer, (nn.BatchNorm2d, nn.SyncBatchNorm))
    return known and layer.running_mean is not None
