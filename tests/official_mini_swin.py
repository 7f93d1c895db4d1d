"""The published Mini-Swin, evaluated straight from a state dict of the official format.

Written from the published equations alone, without the backbone under test: nothing here is a
module, and a weight is looked up by its official name where the equation mentions it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

StateDict = dict[str, Tensor]

#: Width of the first stage, virtual layers and heads of the stages, layers that a block serves.
PUBLISHED = {
    "tiny": dict(dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), share=(2, 2, 6, 2)),
    "small": dict(dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), share=(2, 2, 2, 2)),
    "base": dict(dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), share=(2, 2, 2, 2)),
}

#: What can be got wrong. The tests that use these show that an equal result means something.
MISTAKES = (
    "steps swapped",
    "all blocks once, then all again",
    "first layer of a group shifted",
    "shifted the other way",
    "mask before the mixer",
    "mask only in shifted layers",
    "no mask",
    "raw residual",
    "local convolution dropped",
    "bias table negated in its offsets",
    "bias table with rows and columns exchanged",
    "bias table after the mixer",
    "logit mixer transposed",
    "weight mixer transposed",
    "mixers exchanged",
    "logit mixer dropped",
    "weight mixer dropped",
    "bias of the weight mixer dropped",
    "queries unscaled",
    "qkv rows grouped by head",
    "LayerNorm eps 1e-6",
    "rows of merged patches first",
    "mean before the last norm",
    "tanh GELU",
)


def random_state_dict(
    *,
    dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    share: Sequence[int],
    img_size: int = 224,
    window: int = 7,
    patch_size: int = 4,
    mlp_ratio: float = 4,
    num_classes: int | None = 1000,
    seed: int = 0,
) -> StateDict:
    """Weights and buffers of the official names and shapes in fp64, all of which matter.

    Args:
        dim: Width of the first stage; it doubles from stage to stage.
        depths: Virtual layers of the stages.
        num_heads: Heads of the stages.
        share: Virtual layers that a block of each stage serves.
        img_size: Side of the images in pixels; the windows must divide the map of each stage.
        window: Side of the attention windows.
        patch_size: Side of a patch in pixels.
        mlp_ratio: Hidden width of the feed-forward over the stage's.
        num_classes: Of the classifier ``head``; None leaves it out.
        seed: Of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: StateDict = {}

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * std

    def linear(name: str, out: int, width: int, *kernel: int) -> None:
        std = (width * (kernel[0] ** 2 if kernel else 1)) ** -0.5
        weights[f"{name}.weight"] = normal(out, width, *kernel, std=std)
        weights[f"{name}.bias"] = normal(out, std=0.3)

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = 1 + normal(width, std=0.3)
        weights[f"{name}.bias"] = normal(width, std=0.3)

    linear("patch_embed.proj", dim, 3, patch_size, patch_size)
    norm("patch_embed.norm", dim)
    for s, depth in enumerate(depths):
        side = img_size // patch_size // 2**s
        assert side % window == 0, f"windows of {window} do not divide the map of {side}"
        for b in range(depth // share[s]):
            block = f"layers.{s}.blocks.{b}"
            if side > window:
                weights[f"{block}.attn_mask"] = shift_mask(side, window, window // 2).double()
            for t in range(share[s]):
                norm(f"{block}.norm1_list.{t}", dim)
                norm(f"{block}.norm2_list.{t}", dim)
                norm(f"{block}.local_norm_list.{t}", dim)
                linear(f"{block}.local_conv_list.{t}", dim, 1, 7, 7)
                for proj in ("proj_l", "proj_w"):
                    linear(f"{block}.{proj}.{t}", num_heads[s], num_heads[s])
                    mixer = weights[f"{block}.{proj}.{t}.weight"]
                    mixer.mul_(0.8).add_(torch.eye(num_heads[s]))
            table = normal((2 * window - 1) ** 2, num_heads[s], std=1)
            weights[f"{block}.attn.relative_position_bias_table"] = table
            weights[f"{block}.attn.relative_position_index"] = table_rows(window)
            linear(f"{block}.attn.qkv", 3 * dim, dim)
            linear(f"{block}.attn.proj", dim, dim)
            linear(f"{block}.mlp.fc1", int(mlp_ratio * dim), dim)
            linear(f"{block}.mlp.fc2", dim, int(mlp_ratio * dim))
        if s < len(depths) - 1:
            norm(f"layers.{s}.downsample.norm", 4 * dim)
            weights[f"layers.{s}.downsample.reduction.weight"] = normal(
                2 * dim, 4 * dim, std=(4 * dim) ** -0.5
            )
            dim *= 2
    norm("norm", dim)
    if num_classes is not None:
        linear("head", num_classes, dim)
    return weights


def parameters(weights: StateDict) -> StateDict:
    """The weights without buffers."""
    buffers = ("attn_mask", "relative_position_index")
    return {name: value for name, value in weights.items() if not name.endswith(buffers)}


def logits(
    weights: StateDict,
    images: Tensor,
    *,
    mistake: str | None = None,
    shared: Callable[[str, int], Tensor] | None = None,
) -> Tensor:
    """The classifier's outputs (B, classes), or the pooled tokens if there is no head.

    Args:
        weights: A state dict of the official format.
        images: (B, 3, side, side) of the size that the masks are for.
        mistake: One of :data:`MISTAKES`, made on purpose.
        shared: Gives the weight that a virtual layer uses of those that its block shares, from the
            weight's name and the layer's number in its stage. By default it is ``weights``' own.
    """
    return _Evaluation(weights, mistake, shared).run(images)


class _Evaluation:
    def __init__(
        self,
        weights: StateDict,
        mistake: str | None,
        shared: Callable[[str, int], Tensor] | None,
    ) -> None:
        assert mistake is None or mistake in MISTAKES, mistake
        self.weights = weights
        self.wrong = mistake
        self.shared = shared or (lambda name, layer: weights[name])
        self.eps = 1e-6 if mistake == "LayerNorm eps 1e-6" else 1e-5

    def run(self, images: Tensor) -> Tensor:
        """Maps are (B, H, W, C) throughout."""
        kernel, bias = (self.weights[f"patch_embed.proj.{part}"] for part in ("weight", "bias"))
        x = F.conv2d(images, kernel, bias, stride=kernel.shape[-1]).permute(0, 2, 3, 1)
        x = self.norm(x, "patch_embed.norm")
        for s in range(self.count("layers.{}.blocks.0.attn.qkv.weight")):
            for layer, (b, t) in enumerate(self.order(s)):
                x = self.layer(x, f"layers.{s}.blocks.{b}", t, layer)
            if f"layers.{s}.downsample.reduction.weight" in self.weights:
                x = self.merge_patches(x, f"layers.{s}.downsample")
        if self.wrong == "mean before the last norm":
            x = self.norm(x.mean(dim=(1, 2)), "norm")
        else:
            x = self.norm(x, "norm").mean(dim=(1, 2))
        if "head.weight" in self.weights:
            x = F.linear(x, self.weights["head.weight"], self.weights["head.bias"])
        return x

    def order(self, s: int) -> list[tuple[int, int]]:
        """Block and step of each virtual layer of a stage: 0 0, 0 1, 1 0, 1 1, …"""
        blocks = self.count(f"layers.{s}.blocks.{{}}.attn.qkv.weight")
        steps = range(self.count(f"layers.{s}.blocks.0.norm1_list.{{}}.weight"))
        if self.wrong == "all blocks once, then all again":
            return [(b, t) for t in steps for b in range(blocks)]
        steps = steps[::-1] if self.wrong == "steps swapped" else steps
        return [(b, t) for b in range(blocks) for t in steps]

    def layer(self, x: Tensor, block: str, t: int, layer: int) -> Tensor:
        """Step ``t`` of a block, which is the stage's virtual layer ``layer``."""
        x = x + self.attention(self.norm(x, f"{block}.norm1_list.{t}"), block, t, layer)
        n = self.norm(x, f"{block}.local_norm_list.{t}")
        x = x if self.wrong == "raw residual" else n
        if self.wrong != "local convolution dropped":
            x = x + self.local(n, f"{block}.local_conv_list.{t}")
        return x + self.mlp(self.norm(x, f"{block}.norm2_list.{t}"), f"{block}.mlp", layer)

    def attention(self, x: Tensor, block: str, t: int, layer: int) -> Tensor:
        """A = L (s q kᵀ + table) + b + mask; proj((M softmax(A) + c) v), L and M over heads."""
        first, second = f"{block}.proj_l.{t}", f"{block}.proj_w.{t}"
        if self.wrong == "mixers exchanged":
            first, second = second, first
        mix_logits, b = self.weights[f"{first}.weight"], self.weights[f"{first}.bias"]
        mix_weights, c = self.weights[f"{second}.weight"], self.weights[f"{second}.bias"]
        mix_logits = mix_logits.T if self.wrong == "logit mixer transposed" else mix_logits
        mix_weights = mix_weights.T if self.wrong == "weight mixer transposed" else mix_weights
        c = torch.zeros_like(c) if self.wrong == "bias of the weight mixer dropped" else c

        table = self.shared(f"{block}.attn.relative_position_bias_table", layer)
        window = (int(len(table) ** 0.5) + 1) // 2
        height, width = x.shape[1:3]
        shift = self.shift(block, layer, window)
        x = torch.roll(x, (-shift, -shift), dims=(1, 2))
        x = to_windows(x, window)

        heads = len(mix_logits)
        qkv = self.linear(x, f"{block}.attn.qkv", layer)
        if self.wrong == "qkv rows grouped by head":
            q, k, v = qkv.unflatten(-1, (heads, 3, -1)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        scale = 1 if self.wrong == "queries unscaled" else q.shape[-1] ** -0.5
        logits = (scale * q) @ k.transpose(-1, -2)

        relative = table[self.rows(block)].permute(2, 0, 1)
        late = self.wrong == "bias table after the mixer"
        logits = logits if late else logits + relative
        early = self.wrong == "mask before the mixer"
        logits = logits + self.mask(block, shift, len(x)) if early else logits
        if self.wrong != "logit mixer dropped":
            logits = mix(logits, mix_logits, b)
        logits = logits + relative if late else logits
        logits = logits if early else logits + self.mask(block, shift, len(x))
        attention = logits.softmax(dim=-1)
        if self.wrong != "weight mixer dropped":
            attention = mix(attention, mix_weights, c)
        x = (attention @ v).transpose(1, 2).flatten(2)
        x = from_windows(self.linear(x, f"{block}.attn.proj", layer), window, height, width)
        return torch.roll(x, (shift, shift), dims=(1, 2))

    def shift(self, block: str, layer: int, window: int) -> int:
        """0 and half a window by turns, in stages with masks."""
        if f"{block}.attn_mask" not in self.weights:
            return 0
        first = 1 if self.wrong == "first layer of a group shifted" else 0
        half = -(window // 2) if self.wrong == "shifted the other way" else window // 2
        return half * ((layer + first) % 2)

    def mask(self, block: str, shift: int, windows: int) -> Tensor:
        """(windows of all images, 1, tokens, tokens), the same for each image."""
        mask = self.weights.get(f"{block}.attn_mask")
        unmasked = self.wrong == "mask only in shifted layers" and not shift
        if mask is None or unmasked or self.wrong == "no mask":
            return torch.zeros(1, dtype=torch.float64)
        return mask.repeat(windows // len(mask), 1, 1)[:, None]

    def rows(self, block: str) -> Tensor:
        rows = self.weights[f"{block}.attn.relative_position_index"]
        if self.wrong == "bias table negated in its offsets":
            return rows.T
        if self.wrong == "bias table with rows and columns exchanged":
            side = int(len(rows) ** 0.5)
            return rows.view(side, side, side, side).permute(1, 0, 3, 2).reshape(rows.shape)
        return rows

    def local(self, x: Tensor, name: str) -> Tensor:
        kernel, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        x = F.conv2d(x.permute(0, 3, 1, 2), kernel, bias, padding=3, groups=len(kernel))
        return x.permute(0, 2, 3, 1)

    def mlp(self, x: Tensor, mlp: str, layer: int) -> Tensor:
        approximation = "tanh" if self.wrong == "tanh GELU" else "none"
        x = F.gelu(self.linear(x, f"{mlp}.fc1", layer), approximate=approximation)
        return self.linear(x, f"{mlp}.fc2", layer)

    def merge_patches(self, x: Tensor, name: str) -> Tensor:
        places = [(0, 0), (1, 0), (0, 1), (1, 1)]  # row and column
        if self.wrong == "rows of merged patches first":
            places = [(0, 0), (0, 1), (1, 0), (1, 1)]
        x = torch.cat([x[:, row::2, column::2] for row, column in places], dim=-1)
        return F.linear(self.norm(x, f"{name}.norm"), self.weights[f"{name}.reduction.weight"])

    def linear(self, x: Tensor, name: str, layer: int) -> Tensor:
        return F.linear(x, self.shared(f"{name}.weight", layer), self.shared(f"{name}.bias", layer))

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)

    def count(self, pattern: str) -> int:
        n = 0
        while pattern.format(n) in self.weights:
            n += 1
        return n


def mix(attention: Tensor, mixer: Tensor, bias: Tensor) -> Tensor:
    """(B, heads, N, N) mixed over heads by (out head, in head) and a bias for each out head."""
    return torch.einsum("oh,bhij->boij", mixer, attention) + bias[:, None, None]


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) → (windows of all images, tokens, C)."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // window, window, width // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window**2, c)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """(windows of all images, tokens, C) → (B, H, W, C)."""
    x = x.reshape(-1, height // window, width // window, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """−100 between tokens of a window that came together only by rolling: (windows, N, N)."""
    # After rolling, the last window of either axis holds two regions that are no neighbours.
    band = torch.zeros(side)
    band[-window:] = 1
    band[-shift:] = 2
    region = to_windows((3 * band[:, None] + band)[None, :, :, None], window)[..., 0]
    return -100.0 * (region[:, :, None] != region[:, None, :])


def table_rows(window: int) -> Tensor:
    """Row of the bias table for each query i and key j of a window."""
    y = torch.arange(window).repeat_interleave(window)
    x = torch.arange(window).repeat(window)
    down, right = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    return down * (2 * window - 1) + right
