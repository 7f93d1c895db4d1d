"""MiniViT's weight multiplexing: one block's weights serve several layers, made different again.

Source: Zhang et al., "MiniViT: Compressing Vision Transformers with Weight Multiplexing", CVPR
2022, and its reference code. The layers that a block serves are its *steps*; the step is an
argument, so that no block counts its calls. A shared weight is one ``nn.Parameter`` and autograd
adds the gradients of all steps.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .attention import QKV
from .checks import check_number, check_parts, check_shape, check_tokens, check_whole
from .dense import DenseAttention, DenseFFN
from .mixed_attention import Mixer
from .relative_position import ImageRelativePosition, WindowRelativePosition
from .tied import TiedAttention, TiedFFN
from .window import Size, WindowLayout


class HeadMixer(nn.Module):
    """Mixes attention maps across heads: map ``o`` becomes ``Σ_i weight[o, i] · map i + bias[o]``.

    MiniViT's transformation of attention; a 1 × 1 convolution over heads.

    Args:
        num_heads: Number of heads h.
        bias: Adds a bias to each head.

    Parameters: ``weight (h, h)`` = [out, in], and ``bias (h)``.
    """

    def __init__(self, num_heads: int, *, bias: bool = False) -> None:
        super().__init__()
        check_whole(num_heads=num_heads)
        self.weight = nn.Parameter(torch.empty(num_heads, num_heads))
        self.bias = nn.Parameter(torch.zeros(num_heads)) if bias else None
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, h, N, M) → (B, h, N, M)."""
        return self.bound()(maps)

    def bound(self) -> Mixer:
        """The mixer with its parameters of now.

        What is computed again in the backward pass needs those of the forward pass, which
        ``torch.func.functional_call`` takes back from the module in between.
        """
        own_weight, bias = self.weight, self.bias

        def mix(maps: Tensor) -> Tensor:
            check_shape(maps, None, len(own_weight), None, None, what="maps")
            # Not `weight @ maps`: for a trained weight it lays all maps out anew, heads last.
            weight = own_weight.expand(maps.shape[0], -1, -1)
            mixed = torch.bmm(weight, maps.flatten(2)).unflatten(2, maps.shape[2:])
            return mixed if bias is None else mixed + bias[:, None, None]

        return mix

    def extra_repr(self) -> str:
        return f"num_heads={len(self.weight)}, bias={self.bias is not None}"


class LocalConv(nn.Module):
    """Mini-Swin's transformation before the feed-forward: ``n = LN(x)``, ``x ← n + DWConv(n)``.

    It replaces the residual stream by its normalised version, as the reference code does.

    Args:
        dim: Width of the tokens.
        kernel_size: Side of the depthwise convolution.
    """

    def __init__(self, dim: int, kernel_size: int = 7) -> None:
        super().__init__()
        check_whole(dim=dim, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} is even: choose an odd number")
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """Tokens (B, H · W, dim) → (B, H · W, dim)."""
        check_tokens(x, self.conv.in_channels, size)
        x = self.norm(x)
        maps = x.transpose(1, 2).unflatten(2, size)
        return x + self.conv(maps).flatten(2).transpose(1, 2)


class MultiplexedBlock(nn.Module):
    """Pre-norm transformer block whose attention and feed-forward serve several layers.

    Step t: ``x ← x + Attn_t(LN1_t(x))``, if asked for ``x ← Local_t(x)``, and
    ``x ← x + FFN(LN2_t(x))``, where Attn_t mixes heads with matrices of its own before and after
    the softmax: ``softmax(L_t (q kᵀ / √head_dim + R) ) → M_t · softmax → values``.

    Args:
        dim: Width of the tokens.
        num_heads: Number of heads h; must divide ``dim``.
        hidden_dim: Width of the feed-forward's hidden layer.
        steps: Number of layers that the block serves.
        tied: Which of ``"attn"`` and ``"ffn"`` use each of their weights twice as well, as in
            HaLViT; the others are dense.
        transforms: Which parts each step has for itself: ``"norm"`` (both LayerNorms, else shared),
            ``"mix_logits"`` (L), ``"mix_weights"`` (M), ``"rel_pos"``
            (:class:`~halvit_mm.layers.ImageRelativePosition`) and ``"local"`` (:class:`LocalConv`);
            all but the first are absent otherwise.
        window_rel_pos: Largest window of a :class:`~halvit_mm.layers.WindowRelativePosition` that
            the steps share; None leaves it out.
        mixer_bias: Gives the mixers biases, as Mini-Swin's have. As in the reference code, those
            after the softmax give weight to all tokens of a window, also to the masked ones of a
            shifted map.
        drop_path: Probability of dropping a residual branch of a sample in training, for each step.
        norm_eps: The ε of the two LayerNorms.
        init_std: Standard deviation of the initial weights of attention and feed-forward.

    Raises:
        ValueError: An option is wrong; in :meth:`forward`, the tokens are not those of the map, or
            there is no such step.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        steps: int,
        tied: Collection[str] = (),
        transforms: Collection[str] = ("norm", "mix_logits", "mix_weights"),
        window_rel_pos: Size | None = None,
        mixer_bias: bool = False,
        drop_path: Sequence[float] | None = None,
        norm_eps: float = 1e-6,
        init_std: float = 0.02,
    ) -> None:
        super().__init__()
        check_whole(dim=dim, hidden_dim=hidden_dim, steps=steps)
        check_parts(("attn", "ffn"), tied=tied)
        check_parts(
            ("norm", "mix_logits", "mix_weights", "rel_pos", "local"), transforms=transforms
        )
        drop_path = [0.0] * steps if drop_path is None else drop_path
        if not isinstance(drop_path, (tuple, list)) or len(drop_path) != steps:
            raise ValueError(f"drop_path={drop_path} needs one rate for each of {steps} steps")
        for rate in drop_path:
            check_number(least=0, most=1, drop_path=rate)
        attention = TiedAttention if "attn" in tied else DenseAttention
        feed_forward = TiedFFN if "ffn" in tied else DenseFFN
        self.steps = steps

        def each_step(make: Callable[[], nn.Module], transform: str) -> nn.ModuleList | None:
            wanted = transform in transforms
            return nn.ModuleList(make() for _ in range(steps)) if wanted else None

        norm = partial(nn.LayerNorm, dim, eps=norm_eps)
        mixer = partial(HeadMixer, num_heads, bias=mixer_bias)
        self.norm1 = each_step(norm, "norm") or nn.ModuleList([norm()])
        self.attn = attention(dim, num_heads, init_std=init_std)
        self.mix_logits = each_step(mixer, "mix_logits")
        self.mix_weights = each_step(mixer, "mix_weights")
        if window_rel_pos is not None:
            self.rel_pos = WindowRelativePosition(window_rel_pos, num_heads)
        else:
            self.rel_pos = each_step(partial(ImageRelativePosition, dim // num_heads), "rel_pos")
        self.local = each_step(partial(LocalConv, dim), "local")
        self.norm2 = each_step(norm, "norm") or nn.ModuleList([norm()])
        self.ffn = feed_forward(dim, hidden_dim, init_std=init_std)
        self.drop_path = nn.ModuleList(
            StochasticDepth(rate, mode="row") if rate else nn.Identity() for rate in drop_path
        )

    def forward(self, x: Tensor, layout: WindowLayout, step: int) -> Tensor:
        """Runs one step.

        Args:
            x: Tokens (B, N, dim) of a map with N = H · W; one class token in front is allowed where
                neither windows nor relative positions are used.
            layout: The attention windows of the map.
            step: Which of the layers this is, from 0.
        """
        # Queries, keys and values are let go before the feed-forward needs memory.
        return self._feed_forward(self._attend(x, layout, step)[0], layout.size, step)

    def forward_with_qkv(self, x: Tensor, layout: WindowLayout, step: int) -> tuple[Tensor, QKV]:
        """As the block itself, with what attention compares.

        Returns:
            Tokens (B, N, dim), and queries, keys and values as they are projected, each
            (windows of all images, tokens of a window, dim).
        """
        x, qkv = self._attend(x, layout, step)
        return self._feed_forward(x, layout.size, step), qkv

    def attention_weights(
        self, qkv: QKV, layout: WindowLayout, step: int, *, queries: slice = slice(None)
    ) -> Tensor:
        """What a step's attention multiplies values by.

        Args:
            qkv: What :meth:`forward_with_qkv` returned.
            layout: As given to it.
            step: As given to it.
            queries: Some of the queries, by their places in a window.

        Returns:
            Weights (windows of all images, heads, n, tokens of a window), mixed across heads.
        """
        images = qkv[0][:: layout.num_windows]
        return self.attn.weights(qkv, queries, **self._between(layout, step, images))

    def last_step(self, name: str) -> int:
        """The last step that uses one of the block's parameters, given by its name in the block."""
        own = self._own_step(name)
        return self.steps - 1 if own is None else own

    def first_step(self, name: str) -> int:
        """The first step that uses one of the block's parameters, given likewise."""
        return self._own_step(name) or 0

    def _own_step(self, name: str) -> int | None:
        """The only step that uses a parameter; None if all do."""
        part, index, *_ = name.split(".")
        of_steps = index.isdigit() and len(getattr(self, part)) == self.steps
        return int(index) if of_steps else None

    def _attend(self, x: Tensor, layout: WindowLayout, step: int) -> tuple[Tensor, QKV]:
        if not 0 <= step < self.steps:
            raise ValueError(f"step={step} is unknown: the block has steps 0 to {self.steps - 1}")
        plain = layout.is_whole and self.rel_pos is None and self.local is None
        check_tokens(x, self.attn.dim, layout.size, class_token=plain)
        attended, qkv = self.attn(
            _of(self.norm1, step)(x),
            # Padding after the projection adds 0, whatever weight a mixer's bias gives it.
            partition=layout.partition,
            **self._between(layout, step, x),
            return_qkv=True,
        )
        return x + self.drop_path[step](layout.merge(attended)), qkv

    def _between(self, layout: WindowLayout, step: int, images: Tensor) -> dict[str, Any]:
        """What stands between queries and weights; of ``images``, B and the device count."""
        rel_pos = _of(self.rel_pos, step)
        mixers = [
            None if mixer is None else mixer[step].bound()
            for mixer in (self.mix_logits, self.mix_weights)
        ]
        return dict(
            mask=layout.mask(images),
            rel_pos=partial(rel_pos.for_queries, layout.window) if rel_pos else None,
            mix_logits=mixers[0],
            mix_weights=mixers[1],
        )

    def _feed_forward(self, x: Tensor, size: Size, step: int) -> Tensor:
        if self.local is not None:
            x = self.local[step](x, size)
        norm = _of(self.norm2, step)
        return x + self.drop_path[step](self.ffn(norm(x)))


def _of(modules: nn.Module | None, step: int) -> nn.Module | None:
    """A step's own module, or the one that all steps share."""
    if isinstance(modules, nn.ModuleList):
        return modules[step if len(modules) > 1 else 0]
    return modules
