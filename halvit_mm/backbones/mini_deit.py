"""Mini-DeiT: a plain vision transformer whose blocks serve several layers each.

Source: Zhang et al., "MiniViT: Compressing Vision Transformers with Weight Multiplexing", CVPR
2022, and its reference code.
"""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from mmengine.registry import MODELS
from torch import nn

from ..layers import MultiplexedBlock, WindowLayout
from .options import check_share, drop_path_rates, hidden_width, parse_parts
from .plain_vit import PlainViT

#: Width, depth in layers and heads of the named architectures.
ARCHS = {
    "tiny": dict(dim=192, depth=12, num_heads=3),
    "small": dict(dim=384, depth=12, num_heads=6),
    "base": dict(dim=768, depth=12, num_heads=12),
}
TRANSFORMS = ("norm", "mix_logits", "mix_weights", "rel_pos")


@MODELS.register_module()
class MiniDeiT(PlainViT):
    """Plain vision transformer in which consecutive layers share the weights of one block.

    With ``share=2`` the layers are block 0 step 0, block 0 step 1, block 1 step 0, and so on. All
    layers have stochastic depth of their own; see :class:`~halvit_mm.layers.MultiplexedBlock`.

    Tokens are (B, N, dim) with N = H · W patches in row-major order, preceded by a class token if
    there is one. Any input size works: images are zero-padded at the bottom and right to multiples
    of the patch size and the position embedding is resampled to their grid.

    Args:
        arch: ``"tiny"``, ``"small"``, ``"base"``, or a dict with ``dim``, ``depth`` (in layers) and
            ``num_heads``.
        share: Layers in a row that share a block; a divisor of the depth. 1 shares nothing, the
            depth itself makes one block serve all.
        transforms: What each layer has for itself: True for all as published, False for nothing, or
            a subset of ``("norm", "mix_logits", "mix_weights", "rel_pos")``: LayerNorms (else those
            of the block), mixing of heads before and after the softmax, and relative positions
            (else none).
        tied: True ties attention and feed-forward inside the shared blocks as HaLViT does, which
            halves them again; False as published, or a subset of ``("attn", "ffn")``.
        img_size: Input size in pixels (one number or height and width) that the position embedding
            is learned on.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of the input.
        mlp_ratio: Width of the feed-forward's hidden layer, as a multiple of ``dim``.
        with_cls_token: Puts a class token in front of the patches; only without relative positions
            and windows. With ``share=1, transforms=False`` it is DeiT itself.
        out_type: What each output is: ``"avg_featmap"`` the mean over patches (B, dim),
            ``"featmap"`` a map (B, dim, H, W), ``"raw"`` tokens (B, N, dim), or ``"cls_token"``
            (B, dim). Default: ``"avg_featmap"``, with a class token ``"cls_token"``.
        out_indices: Layers whose outputs are returned; negative numbers count from the end.
        final_norm: Normalises the last layer's output.
        window_size: Side of the attention windows in tokens; 0 attends globally everywhere.
        global_blocks: Layers that attend globally although ``window_size`` is set.
        drop_path_rate: Stochastic depth of the last layer; it grows linearly from 0 at the first.
        init_std: Standard deviation of the initial weights of attention and feed-forward.
        frozen_stages: 0 freezes the embeddings, n > 0 the first n blocks as well; −1 nothing.
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
        share: int = 2,
        transforms: bool | Collection[str] = True,
        tied: bool | Collection[str] = False,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        with_cls_token: bool = False,
        out_type: str | None = None,
        out_indices: int | Sequence[int] = -1,
        final_norm: bool = True,
        window_size: int = 0,
        global_blocks: Sequence[int] = (),
        drop_path_rate: float = 0.0,
        init_std: float = 0.02,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        transforms = parse_parts(transforms, TRANSFORMS, "transforms")
        tied = parse_parts(tied, ("attn", "ffn"), "tied")
        super().__init__(
            archs=ARCHS,
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            with_cls_token=with_cls_token,
            out_type=out_type,
            out_indices=out_indices,
            window_size=window_size,
            global_blocks=global_blocks,
            rel_pos="rel_pos" in transforms,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        check_share(self.num_layers, share)
        self.share = share
        hidden_dim = hidden_width(self.embed_dims, mlp_ratio)
        drop_path = drop_path_rates(drop_path_rate, self.num_layers)
        self.blocks = nn.ModuleList(
            MultiplexedBlock(
                self.embed_dims,
                self.num_heads,
                hidden_dim,
                steps=share,
                tied=tied,
                transforms=transforms,
                drop_path=drop_path[first : first + share],
                init_std=init_std,
            )
            for first in range(0, self.num_layers, share)
        )
        self._finish(final_norm=final_norm, frozen_stages=frozen_stages)

    def _layer(self, index: int, size: tuple[int, int]) -> tuple[nn.Module, tuple[Any, ...]]:
        block, step = divmod(index, self.share)
        return self.blocks[block], (WindowLayout(size, self.windows[index]), step)

    def _first_layer(self, name: str) -> int:
        _, block, name = name.split(".", 2)
        return int(block) * self.share + self.blocks[int(block)].first_step(name)

    def _last_layer(self, name: str) -> int:
        _, block, name = name.split(".", 2)
        return int(block) * self.share + self.blocks[int(block)].last_step(name)
