"""HaLViT: a plain vision transformer with half of the weights, and its dense twin.

Source: Koyun and Töreyin, "HaLViT: Half of the Weights are Enough", CVPRW 2024.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import TransformerBlock, adapt_position_embedding, resize_position_embedding
from ..layers.checkpointing import checkpointed

#: Width, depth and heads of the named architectures; ``medium`` is the paper's "Small" or "M".
ARCHS = {
    "nano": dict(dim=192, depth=12, num_heads=3),
    "tiny": dict(dim=384, depth=12, num_heads=6),
    "medium": dict(dim=768, depth=12, num_heads=12),
    "large": dict(dim=1024, depth=24, num_heads=16),
}
OUT_TYPES = ("cls_token", "avg_featmap", "featmap", "raw")


@MODELS.register_module()
class HaLViT(BaseModule):
    """Plain vision transformer whose blocks use each weight twice, as W and as Wᵀ.

    Tokens are (B, N, dim) with N = H · W patches in row-major order, preceded by a class token if
    there is one. Any input size works: images are zero-padded at the bottom and right to multiples
    of the patch size and the position embedding is resampled to their grid.

    Args:
        arch: ``"nano"``, ``"tiny"``, ``"medium"``, ``"large"``, or a dict with ``dim``, ``depth``
            and ``num_heads``.
        tied: True ties attention and feed-forward (HaLViT), False neither (the dense twin), or a
            subset of ``("attn", "ffn")``.
        img_size: Input size in pixels (one number or height and width) that the position embedding
            is learned on.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of the input.
        mlp_ratio: Width of the feed-forward's hidden layer, as a multiple of ``dim``.
        with_cls_token: Puts a class token in front of the patches.
        out_type: What each output is: ``"cls_token"`` (B, dim), ``"avg_featmap"`` the mean over
            patches (B, dim), ``"featmap"`` a map (B, dim, H, W), or ``"raw"`` tokens (B, N, dim).
            Default: ``"cls_token"`` with a class token, ``"avg_featmap"`` without.
        out_indices: Blocks whose outputs are returned; negative numbers count from the end. Blocks
            after the last one asked for are not run.
        final_norm: Normalises the last block's output.
        window_size: Side of the attention windows in tokens; 0 attends globally everywhere.
        global_blocks: Blocks that attend globally although ``window_size`` is set.
        rel_pos: Adds decomposed relative position logits to the attention.
        layer_scale: Initial value of LayerScale; None leaves it out.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        signed_ffn: Half of the hidden units of the feed-forward write with a minus sign
            (:class:`~halvit_mm.layers.SignedGELU`); ours, not in the paper.
        init_std: Standard deviation of the initial weights of attention and feed-forward.
        frozen_stages: 0 freezes the embeddings, n > 0 the first n blocks as well; −1 nothing.
        with_cp: Recomputes each block in the backward pass instead of keeping its activations.
        init_cfg: mmengine's initialisation; ``dict(type="PretrainedBackbone", checkpoint=FILE)``
            starts from the backbone of another model.

    Raises:
        ValueError: An option is unknown or contradicts another; the message says which.
    """

    #: What turns a configuration into its dense twin.
    dense_twin: ClassVar[dict] = dict(tied=False)

    def __init__(
        self,
        *,
        arch: str | dict = "tiny",
        tied: bool | Collection[str] = True,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        with_cls_token: bool = True,
        out_type: str | None = None,
        out_indices: int | Sequence[int] = -1,
        final_norm: bool = True,
        window_size: int = 0,
        global_blocks: Sequence[int] = (),
        rel_pos: bool = False,
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        signed_ffn: bool = False,
        init_std: float = 0.02,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        dim, depth, num_heads = _parse_arch(arch)
        self.embed_dims = dim
        self.depth = depth
        self.patch_size = patch_size
        self.grid_size = tuple(-(-side // patch_size) for side in _pair(img_size))
        self.num_extra_tokens = int(with_cls_token)
        self.out_type = out_type or ("cls_token" if with_cls_token else "avg_featmap")
        self.out_indices = _parse_indices(out_indices, depth, "out_indices")
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        tied = _parse_tied(tied)
        global_blocks = _parse_indices(global_blocks, depth, "global_blocks")

        if self.out_type not in OUT_TYPES:
            raise ValueError(f"out_type={out_type!r} is unknown: choose one of {OUT_TYPES}")
        if self.out_type == "cls_token" and not with_cls_token:
            raise ValueError("out_type='cls_token' needs with_cls_token=True")
        if with_cls_token and (window_size or rel_pos):
            raise ValueError(
                "window_size and rel_pos need with_cls_token=False: "
                "a class token has no place on the map"
            )
        if not -1 <= frozen_stages <= depth:
            raise ValueError(f"frozen_stages={frozen_stages} is not between -1 and depth={depth}")

        self.patch_embed = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if with_cls_token else None
        num_tokens = self.num_extra_tokens + self.grid_size[0] * self.grid_size[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, dim))

        windowed = [bool(window_size) and i not in global_blocks for i in range(depth)]
        window = (window_size, window_size)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim,
                num_heads,
                int(dim * mlp_ratio),
                tied=tied,
                window=window if windowed[i] else None,
                rel_pos_size=(window if windowed[i] else self.grid_size) if rel_pos else None,
                layer_scale=layer_scale,
                drop_path=drop_path_rate * i / max(depth - 1, 1),
                signed_ffn=signed_ffn,
                init_std=init_std,
            )
            for i in range(depth)
        )
        has_norm = final_norm and depth - 1 in self.out_indices
        self.norm = nn.LayerNorm(dim, eps=1e-6) if has_norm else nn.Identity()
        self._reset_embeddings()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs the backbone.

        Args:
            x: Images (B, in_channels, height, width) of any size.

        Returns:
            One tensor for each of ``out_indices``, as ``out_type`` says; H and W are the input's
            sides divided by the patch size, rounded up.
        """
        x, size = self._embed(x)
        outs = []
        for i, block in enumerate(self.blocks[: self.out_indices[-1] + 1]):
            if self.with_cp and torch.is_grad_enabled():
                x = checkpointed(block, x, size)
            else:
                x = block(x, size)
            if i in self.out_indices:
                last = i == self.depth - 1
                outs.append(self._format(self.norm(x) if last else x, size))
        return tuple(outs)

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, C, height, width) → tokens (B, N, dim) and the map's size (H, W)."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.patch_size, 0, -height % self.patch_size))
        x = self.patch_embed(x)
        size = (x.shape[-2], x.shape[-1])
        extra = self.num_extra_tokens
        pos = resize_position_embedding(self.pos_embed[:, extra:], self.grid_size, size)
        x = x.flatten(2).transpose(1, 2) + pos
        if self.cls_token is not None:
            cls_token = (self.cls_token + self.pos_embed[:, :extra]).expand(len(x), -1, -1)
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
            The parameter's depth (0 for the embeddings, 1 + i for block i, the last for what comes
            after the blocks) and the number of depths, ``depth + 2``.
        """
        num_layers = self.depth + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1, num_layers
        if name.startswith(("patch_embed.", "pos_embed", "cls_token")):
            return 0, num_layers
        return num_layers - 1, num_layers

    def train(self, mode: bool = True) -> "HaLViT":
        """Frozen blocks stay in evaluation mode, so that stochastic depth leaves them alone."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        after = [self.norm] if self.frozen_stages == self.depth else []
        return [self.patch_embed, *self.blocks[: self.frozen_stages], *after]

    def _freeze(self) -> None:
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


def _parse_arch(arch: str | dict) -> tuple[int, int, int]:
    keys = ("dim", "depth", "num_heads")
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f"arch={arch!r} is unknown: choose one of {tuple(ARCHS)} or a dict")
        arch = ARCHS[arch]
    elif set(arch) != set(keys):
        raise ValueError(f"arch has the keys {sorted(arch)}: a dict needs exactly {keys}")
    return tuple(arch[key] for key in keys)


def _parse_tied(tied: bool | Collection[str]) -> frozenset[str]:
    parts = ("attn", "ffn")
    if isinstance(tied, bool):
        return frozenset(parts if tied else ())
    if isinstance(tied, str) or not set(tied) <= set(parts):
        raise ValueError(f"tied={tied!r} is unknown: choose True, False or a subset of {parts}")
    return frozenset(tied)


def _parse_indices(indices: int | Sequence[int], depth: int, option: str) -> tuple[int, ...]:
    """Block numbers in increasing order, negative ones counted from the end."""
    indices = (indices,) if isinstance(indices, int) else tuple(indices)
    wrong = [i for i in indices if not -depth <= i < depth]
    if wrong or (option == "out_indices" and not indices):
        raise ValueError(f"{option}={indices} must name blocks between {-depth} and {depth - 1}")
    return tuple(sorted({i % depth for i in indices}))


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
