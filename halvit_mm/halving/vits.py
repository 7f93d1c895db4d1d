"""HaLViT from a dense ViT, block by block."""

from torch import Tensor

from ..backbones import HaLViT
from ..backbones.plain_vit import PlainViT
from ..errors import UserError
from ..layers import TransformerBlock
from .averaging import average_attention, average_ffn
from .units import Pairing, Unit

Size = tuple[int, int]


def pair_halvit(half: HaLViT, dense: HaLViT, size: Size) -> Pairing:
    """Pairs the blocks of a HaLViT with those of its dense twin and copies all else.

    Norms, LayerScale and embeddings have the same names in both. A class token of the dense model
    is left out where the half-weight one has none.

    Args:
        half: The half-weight backbone; it is changed in place.
        dense: Its dense twin, with or without a class token.
        size: Height and width of the images in pixels.

    Raises:
        UserError: LayerScale of the dense model has no place in the half-weight one.
    """
    _check_layer_scale(half, dense)
    extra = dense.num_extra_tokens - half.num_extra_tokens
    if extra < 0:
        raise UserError(
            "the half-weight model has a class token, the dense one has none: set "
            "model.backbone.with_cls_token=False and out_type='avg_featmap'"
        )
    names = half.state_dict().keys()
    # Strict but for the weights that attention and feed-forward have under other names.
    shared = {name: value for name, value in dense.state_dict().items() if name in names}
    half.load_state_dict(shared, strict=False)
    # Patches of one size make one grid, whichever of the two backbones asks for it.
    grid = tuple(-(-side // half.patch_size) for side in size)
    units = [
        BlockUnit(f"block {i}", *blocks, grid=grid, extra_tokens=extra)
        for i, blocks in enumerate(zip(half.blocks, dense.blocks, strict=True))
    ]
    return Pairing(
        units=units,
        enter_half=lambda images: half._embed(images)[0],
        enter_dense=lambda images: dense._embed(images)[0],
        leave_half=lambda x: features(half, x),
        leave_dense=lambda x: features(dense, x),
    )


class BlockUnit(Unit):
    """A block of HaLViT and the dense block that it stands for.

    Args:
        name: What reports call it.
        half: The half-weight block.
        dense: The dense block.
        grid: Height and width of the token map.
        extra_tokens: Tokens in front that the dense model has and the half-weight one lacks.
    """

    def __init__(
        self,
        name: str,
        half: TransformerBlock,
        dense: TransformerBlock,
        *,
        grid: Size,
        extra_tokens: int,
    ) -> None:
        self.name = name
        self.half = half
        self.dense = dense
        self._grid = grid
        self._extra_tokens = extra_tokens

    def start(self, *, align: bool) -> None:
        average_attention(self.half.attn, [self.dense.attn], align=align)
        average_ffn(self.half.ffn, [self.dense.ffn], align=align)

    def run_half(self, x: Tensor) -> list[Tensor]:
        return [self.half(x, self._grid)]

    def run_dense(self, x: Tensor) -> list[Tensor]:
        return [self.dense(x, self._grid)]

    def compared(self, output: Tensor) -> Tensor:
        return output[:, self._extra_tokens :]


def _check_layer_scale(half: HaLViT, dense: HaLViT) -> None:
    """Refuses to drop what the dense model scales its branches by."""
    scaled = [
        any(name.endswith(".scale1.gamma") for name in model.state_dict())
        for model in (half, dense)
    ]
    if scaled == [False, True]:
        raise UserError(
            "the dense model has LayerScale: set model.backbone.layer_scale=1.0, so that the "
            "half-weight model keeps it"
        )


def features(backbone: PlainViT, x: Tensor) -> Tensor:
    """What a linear head reads, (B, dim), from the last block's tokens."""
    x = backbone.norm(x)
    if backbone.out_type == "cls_token":
        return x[:, 0]
    return x[:, backbone.num_extra_tokens :].mean(dim=1)
