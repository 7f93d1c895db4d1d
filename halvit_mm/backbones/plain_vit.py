"""What plain vision transformers have in common: all but their blocks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import (
    LayerAttention,
    LayerFeatures,
    WindowLayout,
    adapt_position_embedding,
    resize_position_embedding,
)
from ..layers.checkpointing import checkpointed
from ..layers.checks import check_flags, check_maps, check_whole
from ..layers.sizes import grid_size, pad_to_grid
from .options import check_frozen, pair, parse_arch, parse_indices

OUT_TYPES = ("cls_token", "avg_featmap", "featmap", "raw")


class PlainViT(BaseModule):
    """Embeddings, outputs, freezing and learning rate depths of a plain vision transformer.

    A subclass calls this constructor, makes ``self.blocks`` and calls :meth:`_finish`; it says by
    :meth:`_layer` how they are run. Its *layers* are numbered from 0; a block may serve several.

    Args:
        archs: Width, depth in layers and heads of the named architectures.
        options: See :class:`~halvit_mm.backbones.HaLViT`.
    """

    def __init__(
        self,
        *,
        archs: Mapping[str, dict],
        arch: str | dict,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_channels: int,
        with_cls_token: bool,
        out_type: str | None,
        out_indices: int | Sequence[int],
        window_size: int,
        global_blocks: Sequence[int],
        rel_pos: bool,
        with_cp: bool,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg)
        dim, depth, num_heads = parse_arch(arch, archs, ("dim", "depth", "num_heads"))
        check_whole(dim=dim, depth=depth, num_heads=num_heads)
        check_whole(patch_size=patch_size, in_channels=in_channels)
        check_whole(least=0, window_size=window_size)
        check_flags(with_cls_token=with_cls_token, rel_pos=rel_pos, with_cp=with_cp)
        self.embed_dims = dim
        self.num_heads = num_heads
        self.num_layers = depth
        self.patch_size = patch_size
        self.grid_size = tuple(-(-side // patch_size) for side in pair(img_size))
        self.num_extra_tokens = int(with_cls_token)
        default = "cls_token" if with_cls_token else "avg_featmap"
        self.out_type = default if out_type is None else out_type
        self.out_indices = parse_indices(out_indices, depth, "out_indices")
        self.with_cp = with_cp
        global_blocks = parse_indices(global_blocks, depth, "global_blocks")
        #: Attention window of each layer; None attends globally.
        self.windows = tuple(
            (window_size, window_size) if window_size and i not in global_blocks else None
            for i in range(depth)
        )

        if self.out_type not in OUT_TYPES:
            raise ValueError(f"out_type={out_type!r} is unknown: choose one of {OUT_TYPES}")
        if self.out_type == "cls_token" and not with_cls_token:
            raise ValueError("out_type='cls_token' needs with_cls_token=True")
        if with_cls_token and (window_size or rel_pos):
            raise ValueError(
                "window_size and rel_pos need with_cls_token=False: "
                "a class token has no place on the map"
            )

        self.patch_embed = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if with_cls_token else None
        num_tokens = self.num_extra_tokens + self.grid_size[0] * self.grid_size[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, dim))

    def _finish(self, *, final_norm: bool, frozen_stages: int) -> None:
        """What comes after the blocks are made."""
        check_flags(final_norm=final_norm)
        check_frozen(frozen_stages, len(self.blocks), "blocks")
        has_norm = final_norm and self.num_layers - 1 in self.out_indices
        self.norm = nn.LayerNorm(self.embed_dims, eps=1e-6) if has_norm else nn.Identity()
        self.frozen_stages = frozen_stages
        self._reset_embeddings()
        self._freeze()

    def _layer(self, index: int, size: tuple[int, int]) -> tuple[nn.Module, tuple[Any, ...]]:
        """A layer's block, and what it is called with after the tokens of a map of ``size``."""
        raise NotImplementedError

    def _first_layer(self, name: str) -> int:
        """The first layer that uses a block's parameter, called ``blocks.<i>.…``."""
        raise NotImplementedError

    def _last_layer(self, name: str) -> int:
        """The last layer that uses it."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs the backbone.

        Args:
            x: Images (B, in_channels, height, width) of any size.

        Returns:
            One tensor for each of ``out_indices``, in increasing order, as ``out_type`` says; H and
            W are the input's sides divided by the patch size, rounded up.

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
            layers: Numbers of layers, from 0.

        Returns:
            What the backbone returns, and the features of each layer asked for.
        """
        x, size = self._embed(x)
        outs, features = [], {}
        for i in range(max((*self.out_indices, *layers)) + 1):
            block, inputs = self._layer(i, size)
            method = block.forward_with_qkv if i in layers else block
            if self.with_cp and torch.is_grad_enabled():
                x = checkpointed(block, x, *inputs, method=method)
            else:
                x = method(x, *inputs)
            if i in layers:
                x, qkv = x
                features[i] = LayerFeatures(qkv, x)
            if i in self.out_indices:
                last = i == self.num_layers - 1
                outs.append(self._format(self.norm(x) if last else x, size))
        return tuple(outs), features

    def attention_layers(self, size: tuple[int, int]) -> list[LayerAttention]:
        """How each layer attends in images of ``size``, height and width in pixels."""
        size = grid_size(size, (self.patch_size, self.patch_size))
        return [
            LayerAttention(*self._layer(i, size), WindowLayout(size, window), self.patch_size)
            for i, window in enumerate(self.windows)
        ]

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, C, height, width) → tokens (B, N, dim) and the map's size (H, W)."""
        check_maps(x, self.patch_embed.in_channels, self.patch_embed.weight, what="images")
        x = self.patch_embed(pad_to_grid(x, (self.patch_size, self.patch_size)))
        size = (x.shape[-2], x.shape[-1])
        extra = self.num_extra_tokens
        pos = resize_position_embedding(self.pos_embed[:, extra:], self.grid_size, size)
        x = x.flatten(2).transpose(1, 2) + pos
        if self.cls_token is not None:
            cls_token = (self.cls_token + self.pos_embed[:, :extra]).expand(x.shape[0], -1, -1)
            x = torch.cat((cls_token.to(x.dtype), x), dim=1)
        return x, size

    def _format(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (B, N, dim) → the output that ``out_type`` names."""
        if self.out_type == "raw":
            return x
        if self.out_type == "cls_token":
            return x[:, 0]
        patches = x[:, self.num_extra_tokens :]
        if self.out_type == "avg_featmap":
            return patches.mean(dim=1)
        return patches.transpose(1, 2).unflatten(2, size)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rate decay, as mmpretrain asks for it.

        Args:
            param_name: Full name of the parameter.
            prefix: What precedes the backbone's own names, e.g. ``"backbone."``.

        Returns:
            The parameter's depth (0 for the embeddings, 1 + i where layer i is the last to use it,
            the last for what comes after the blocks) and the number of depths, two more than there
            are layers.
        """
        num_depths = self.num_layers + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return num_depths - 1, num_depths
        if name.startswith("blocks."):
            return self._last_layer(name) + 1, num_depths
        if name.startswith(("patch_embed.", "pos_embed", "cls_token")):
            return 0, num_depths
        return num_depths - 1, num_depths

    def train(self, mode: bool = True) -> "PlainViT":
        """Frozen blocks stay in evaluation mode, so that stochastic depth leaves them alone."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        after = [self.norm] if self.frozen_stages == len(self.blocks) else []
        return [self.patch_embed, *self.blocks[: self.frozen_stages], *after]

    def _freeze(self) -> None:
        # What no output needs gets no gradient, for which DDP would wait.
        for name, parameter in self.blocks.named_parameters(prefix="blocks"):
            if self._first_layer(name) > max(self.out_indices):
                parameter.requires_grad_(False)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        if self.frozen_stages >= 0:
            self.pos_embed.requires_grad_(False)
            if self.cls_token is not None:
                self.cls_token.requires_grad_(False)

    def _reset_embeddings(self) -> None:
        nn.init.trunc_normal_(self.patch_embed.weight, std=0.02)
        nn.init.zeros_(self.patch_embed.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Fits a checkpoint of another input size, with or without a class token, to this model."""
        pos = state_dict.get(prefix + "pos_embed")
        if pos is not None:
            state_dict[prefix + "pos_embed"] = adapt_position_embedding(
                pos, self.pos_embed.detach(), self.grid_size, self.num_extra_tokens
            )
        if self.cls_token is None:
            state_dict.pop(prefix + "cls_token", None)
        super()._load_from_state_dict(state_dict, prefix, *args)
