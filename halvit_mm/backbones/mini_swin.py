"""Mini-Swin: a hierarchical vision transformer whose blocks serve several layers each.

Source: Zhang et al., "MiniViT: Compressing Vision Transformers with Weight Multiplexing", CVPR
2022, and its reference code; Liu et al., "Swin Transformer", ICCV 2021.
"""

from bisect import bisect
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from typing import ClassVar

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import LayerAttention, LayerFeatures, MultiplexedBlock, WindowLayout
from ..layers.checkpointing import checkpointed
from ..layers.checks import check_flags, check_maps, check_tokens, check_whole
from ..layers.sizes import grid_size, pad_to_grid
from .options import (
    check_frozen,
    drop_path_rates,
    hidden_width,
    parse_arch,
    parse_indices,
    parse_numbers,
    parse_parts,
    parse_shares,
)

#: Width of the first stage, layers and heads of each stage, and the published sharing.
ARCHS = {
    "tiny": dict(dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "small": dict(dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "base": dict(dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
}
PUBLISHED_SHARE = {"tiny": (2, 2, 6, 2), "small": (2, 2, 2, 2), "base": (2, 2, 2, 2)}
TRANSFORMS = ("norm", "mix_logits", "mix_weights", "local")


class PatchMerging(nn.Module):
    """Joins every 2 × 2 tokens into one of twice the width.

    Maps of odd sides are zero-padded at the bottom and right. Source: Swin Transformer, section
    3.1, in the order of its reference code: upper left, lower left, upper right, lower right.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        nn.init.trunc_normal_(self.reduction.weight, std=0.02)

    def forward(self, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, H · W, dim) → (B, ⌈H/2⌉ · ⌈W/2⌉, 2 dim) and their map's size."""
        check_tokens(x, self.dim, size)
        x = pad_to_grid(x.unflatten(1, size), (2, 2), channels_last=True)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H/2, 2 rows, W/2, 2 columns, dim)
        size = (x.shape[1], x.shape[3])
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)
        return self.reduction(self.norm(x)), size


class MiniSwinStage(nn.Module):
    """Layers at one resolution, in blocks of ``share`` each, with patch merging behind.

    Every second layer shifts its windows by half of their side, unless one window covers a side of
    the map.

    Args:
        blocks: The blocks.
        window_size: Side of the windows in tokens.
        mask_all_steps: See :class:`MiniSwin`.
        downsample: Patch merging; None in the last stage.
    """

    def __init__(
        self,
        blocks: list[MultiplexedBlock],
        *,
        window_size: int,
        mask_all_steps: bool,
        downsample: PatchMerging | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.share = blocks[0].steps
        self.window_size = window_size
        self.mask_all_steps = mask_all_steps

    @property
    def num_layers(self) -> int:
        """Layers that its blocks make, each block as often as it is shared."""
        return self.share * len(self.blocks)

    def layers(self, size: tuple[int, int]) -> Iterator[tuple[MultiplexedBlock, WindowLayout, int]]:
        """Block, windows and step of each layer, for a map of ``size``."""
        window, shift = (self.window_size,) * 2, (self.window_size // 2,) * 2
        shifted = WindowLayout(size, window, shift=shift)
        plain = WindowLayout(size, window)
        if min(size) <= self.window_size:
            shifted = plain
        elif self.share > 1 and self.mask_all_steps:
            plain = WindowLayout(size, window, regions=shift)
        for i in range(self.num_layers):
            block, step = divmod(i, self.share)
            yield self.blocks[block], shifted if i % 2 else plain, step


@MODELS.register_module()
class MiniSwin(BaseModule):
    """Swin transformer in which consecutive layers of a stage share the weights of one block.

    Layers are counted from 0 over all stages. Tokens are (B, H · W, C), row-major; C doubles from
    stage to stage. Any input size works: images are zero-padded at the bottom and right to whole
    patches, maps to whole windows, and no token attends to such padding.

    Args:
        arch: ``"tiny"``, ``"small"``, ``"base"``, or a dict with ``dim`` (of the first stage),
            ``depths`` (layers of each stage) and ``num_heads`` (of each stage).
        share: Layers in a row that share a block: one number, or one for each stage, which divides
            its depth. 1 shares nothing. Default: as published, and 2 where ``arch`` is a dict.
        transforms: What each layer has for itself: True for all as published, False for nothing, or
            a subset of ``("norm", "mix_logits", "mix_weights", "local")``: LayerNorms (else those
            of the block), mixing of heads before and after the softmax, and a local convolution
            before the feed-forward (else none). ``share=1, transforms=False`` is Swin itself.
        tied: True ties attention and feed-forward inside the shared blocks as HaLViT does, which
            halves them again; False as published, or a subset of ``("attn", "ffn")``.
        mask_all_steps: In a block that serves several layers, those that do not shift their windows
            mask them as if they did, as in the reference code, whose blocks have one mask each.
            Published weights need it.
        window_size: Side of the attention windows in tokens.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of the input.
        mlp_ratio: Width of the feed-forward's hidden layer, as a multiple of the stage's width.
        out_indices: Stages, from 0, whose maps are returned; default: the last.
        drop_path_rate: Stochastic depth of the last layer; it grows linearly from 0 at the first.
        init_std: Standard deviation of the initial weights of attention and feed-forward.
        frozen_stages: 0 freezes the patch embedding, n > 0 the first n stages as well; −1 nothing.
        with_cp: Recomputes each layer in the backward pass instead of keeping its activations.
        init_cfg: mmengine's initialisation; ``dict(type="PretrainedBackbone", checkpoint=FILE)``
            starts from the backbone of another model.

    Raises:
        ValueError: An option is unknown or contradicts another; the message says which.
    """

    #: What turns a configuration into its dense twin.
    dense_twin: ClassVar[dict] = dict(share=1, transforms=False, tied=False)

    def __init__(
        self,
        *,
        arch: str | dict = "tiny",
        share: int | Sequence[int] | None = None,
        transforms: bool | Collection[str] = True,
        tied: bool | Collection[str] = False,
        mask_all_steps: bool = True,
        window_size: int = 7,
        patch_size: int = 4,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        out_indices: int | Sequence[int] = -1,
        drop_path_rate: float = 0.0,
        init_std: float = 0.02,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        dim, depths, num_heads = parse_arch(arch, ARCHS, ("dim", "depths", "num_heads"))
        check_whole(dim=dim, window_size=window_size, patch_size=patch_size)
        check_whole(in_channels=in_channels)
        check_flags(mask_all_steps=mask_all_steps, with_cp=with_cp)
        depths = parse_numbers(depths, "depths")
        num_heads = parse_numbers(num_heads, "num_heads")
        if len(depths) != len(num_heads):
            raise ValueError(
                f"arch has depths={depths} but num_heads={num_heads}: "
                "both need one number for each stage"
            )
        stages = range(len(depths))
        if share is None:
            share = PUBLISHED_SHARE.get(arch, 2) if isinstance(arch, str) else 2
        share = parse_shares(share, depths)
        check_frozen(frozen_stages, len(depths), "stages")
        self.patch_size = patch_size
        self.num_layers = sum(depths)
        self.num_features = [dim * 2**i for i in stages]
        self.out_indices = parse_indices(out_indices, len(depths), "out_indices", of="stages")
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        transforms = parse_parts(transforms, TRANSFORMS, "transforms")
        tied = parse_parts(tied, ("attn", "ffn"), "tied")

        self.patch_embed = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.patch_norm = nn.LayerNorm(dim)
        #: Number of the first layer of each stage.
        self.first_layers = (0, *accumulate(depths))[:-1]
        drop_path = drop_path_rates(drop_path_rate, self.num_layers)
        self.stages = nn.ModuleList(
            MiniSwinStage(
                [
                    MultiplexedBlock(
                        width,
                        num_heads[i],
                        hidden_width(width, mlp_ratio),
                        steps=share[i],
                        tied=tied,
                        transforms=transforms,
                        window_rel_pos=(window_size, window_size),
                        mixer_bias=True,
                        drop_path=drop_path[first : first + share[i]],
                        norm_eps=1e-5,
                        init_std=init_std,
                    )
                    for first in range(start, start + depths[i], share[i])
                ],
                window_size=window_size,
                mask_all_steps=mask_all_steps,
                downsample=PatchMerging(width) if i < len(depths) - 1 else None,
            )
            for i, (start, width) in enumerate(
                zip(self.first_layers, self.num_features, strict=True)
            )
        )
        for i in self.out_indices:
            self.add_module(f"norm{i}", nn.LayerNorm(self.num_features[i]))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs the backbone.

        Args:
            x: Images (B, in_channels, height, width) of any size.

        Returns:
            A map (B, C, H, W) for each of ``out_indices``, from fine to coarse, normalised; with
            patches of 4 pixels, H and W of stage i are the input's sides divided by 4 · 2^i,
            rounded up.

        Raises:
            TypeError: The images are no tensor, or of another type than the weights.
            ValueError: They have other dimensions or channels, or no pixel.
        """
        return self.forward_features(x, ())[0]

    def forward_features(
        self, x: Tensor, layers: Collection[int]
    ) -> tuple[tuple[Tensor, ...], dict[int, LayerFeatures]]:
        """Runs the backbone and keeps what some layers compute, as distillation needs it.

        Args:
            x: Images (B, in_channels, height, width) of any size.
            layers: Numbers of layers, from 0 over all stages.

        Returns:
            What the backbone returns, and the features of each layer asked for.
        """
        x, size = self._embed(x)
        outs, features = [], {}
        stages_asked_for = (bisect(self.first_layers, j) - 1 for j in layers)
        last = max((*self.out_indices, *stages_asked_for))
        for i, stage in enumerate(self.stages[: last + 1]):
            if i > 0:
                x, size = self.stages[i - 1].downsample(x, size)
            for j, (block, layout, step) in enumerate(stage.layers(size), self.first_layers[i]):
                method = block.forward_with_qkv if j in layers else block
                if self.with_cp and torch.is_grad_enabled():
                    x = checkpointed(block, x, layout, step, method=method)
                else:
                    x = method(x, layout, step)
                if j in layers:
                    x, qkv = x
                    features[j] = LayerFeatures(qkv, x)
            if i in self.out_indices:
                out = getattr(self, f"norm{i}")(x)
                outs.append(out.transpose(1, 2).unflatten(2, size).contiguous())
        return tuple(outs), features

    def attention_layers(self, size: tuple[int, int]) -> list[LayerAttention]:
        """How each layer attends in images of ``size``, height and width in pixels."""
        stride, layers = self.patch_size, []
        size = grid_size(size, (stride, stride))
        for stage in self.stages:
            for block, layout, step in stage.layers(size):
                layers.append(LayerAttention(block, (layout, step), layout, stride))
            size, stride = grid_size(size, (2, 2)), 2 * stride
        return layers

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, C, height, width) → tokens (B, H · W, dim) and their map's size (H, W)."""
        check_maps(x, self.patch_embed.in_channels, self.patch_embed.weight, what="images")
        x = self.patch_embed(pad_to_grid(x, (self.patch_size, self.patch_size)))
        size = (x.shape[-2], x.shape[-1])
        return self.patch_norm(x.flatten(2).transpose(1, 2)), size

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rate decay, as mmpretrain asks for it.

        Args:
            param_name: Full name of the parameter.
            prefix: What precedes the backbone's own names, e.g. ``"backbone."``.

        Returns:
            The parameter's depth (0 for the patch embedding, 1 + i where layer i is the last to use
            it, that of the stage's last layer for patch merging, the last for the output norms) and
            the number of depths, two more than there are layers.
        """
        num_depths = self.num_layers + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return num_depths - 1, num_depths
        if name.startswith("patch_"):
            return 0, num_depths
        if not name.startswith("stages."):
            return num_depths - 1, num_depths
        _, i, part, name = name.split(".", 3)
        stage, first = self.stages[int(i)], self.first_layers[int(i)]
        if part == "downsample":
            return first + stage.num_layers, num_depths
        block, name = name.split(".", 1)
        step = stage.blocks[int(block)].last_step(name)
        return 1 + first + int(block) * stage.share + step, num_depths

    def train(self, mode: bool = True) -> "MiniSwin":
        """Frozen stages stay in evaluation mode, so that stochastic depth leaves them alone."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [f"norm{i}" for i in self.out_indices if i < self.frozen_stages]
        return [
            self.patch_embed,
            self.patch_norm,
            *self.stages[: self.frozen_stages],
            *(getattr(self, name) for name in norms),
        ]

    def _freeze(self) -> None:
        # What no output needs gets no gradient, for which DDP would wait.
        last = max(self.out_indices)
        unused = [self.stages[last].downsample, *self.stages[last + 1 :]]
        for module in (*unused, *self._frozen_modules()):
            if module is not None:
                module.requires_grad_(False)
