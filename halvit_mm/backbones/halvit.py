"""HaLViT: a plain vision transformer with half of the weights, and its dense twin.

Source: Koyun and Töreyin, "HaLViT: Half of the Weights are Enough", CVPRW 2024.
"""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from mmengine.registry import MODELS
from torch import nn

from ..layers import TransformerBlock
from .options import drop_path_rates, hidden_width, parse_parts
from .plain_vit import PlainViT

#: Width, depth and heads of the named architectures; ``medium`` is the paper's "Small" or "M".
ARCHS = {
    "nano": dict(dim=192, depth=12, num_heads=3),
    "tiny": dict(dim=384, depth=12, num_heads=6),
    "medium": dict(dim=768, depth=12, num_heads=12),
    "large": dict(dim=1024, depth=24, num_heads=16),
}


@MODELS.register_module()
class HaLViT(PlainViT):
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
        second_scale: Lets the second use of each tied weight scale the weight's rows
            (:class:`~halvit_mm.layers.SecondUse`); ours, for models that were dense before.
        second_rank: Rank of a matrix that the second use of each tied weight adds to it; 0 none.
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
        second_scale: bool = False,
        second_rank: int = 0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
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
            rel_pos=rel_pos,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        tied = parse_parts(tied, ("attn", "ffn"), "tied")
        hidden_dim = hidden_width(self.embed_dims, mlp_ratio)
        rates = drop_path_rates(drop_path_rate, self.num_layers)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                self.embed_dims,
                self.num_heads,
                hidden_dim,
                tied=tied,
                window=window,
                rel_pos_size=(window or self.grid_size) if rel_pos else None,
                layer_scale=layer_scale,
                drop_path=rate,
                signed_ffn=signed_ffn,
                init_std=init_std,
                second_scale=second_scale,
                second_rank=second_rank,
            )
            for window, rate in zip(self.windows, rates, strict=True)
        )
        self._finish(final_norm=final_norm, frozen_stages=frozen_stages)

    def _layer(self, index: int, size: tuple[int, int]) -> tuple[nn.Module, tuple[Any, ...]]:
        return self.blocks[index], (size,)

    def _first_layer(self, name: str) -> int:
        return int(name.split(".")[1])

    _last_layer = _first_layer
