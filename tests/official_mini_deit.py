"""The published Mini-DeiT, evaluated straight from a state dict of the official format.

Written from the published equations alone, without the backbone under test: nothing here is a
module, and a weight is looked up by its official name where the equation mentions it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

StateDict = dict[str, Tensor]

#: Width, virtual layers and heads.
PUBLISHED = {
    "tiny": dict(dim=192, depth=12, num_heads=3),
    "small": dict(dim=384, depth=12, num_heads=6),
    "base": dict(dim=768, depth=12, num_heads=12),
}

#: What can be got wrong. The tests that use these show that an equal result means something.
MISTAKES = (
    "steps swapped",
    "first step's parts throughout",
    "all blocks once, then all again",
    "offsets of the relative positions negated",
    "rows and columns of the relative positions exchanged",
    "relative positions of unscaled queries",
    "relative positions of the keys",
    "relative positions after the mixer",
    "relative positions dropped",
    "distances clipped instead of bucketed",
    "logit mixer transposed",
    "weight mixer transposed",
    "mixers exchanged",
    "logit mixer dropped",
    "weight mixer dropped",
    "weight mixer before the softmax",
    "queries unscaled",
    "qkv rows grouped by head",
    "LayerNorm eps 1e-5",
    "mean before the last norm",
    "norms after the branches",
    "tanh GELU",
)


def random_state_dict(
    *,
    dim: int,
    depth: int,
    num_heads: int,
    share: int = 2,
    img_size: int = 224,
    patch_size: int = 16,
    mlp_ratio: float = 4,
    num_classes: int | None = 1000,
    seed: int = 0,
) -> StateDict:
    """Weights of the official names and shapes in fp64, all of which matter to the result.

    Args:
        dim: Width.
        depth: Virtual layers.
        num_heads: Heads.
        share: Virtual layers that a block serves; 2 as published.
        img_size: Side of the images in pixels.
        patch_size: Side of a patch in pixels.
        mlp_ratio: Hidden width of the feed-forward over ``dim``.
        num_classes: Of the classifier ``head``; None leaves it out.
        seed: Of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    weights: StateDict = {}

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * std

    def linear(name: str, out: int, width: int, *more: int) -> None:
        std = (width * (more[0] ** 2 if more else 1)) ** -0.5
        weights[f"{name}.weight"] = normal(out, width, *more, std=std)
        weights[f"{name}.bias"] = normal(out, std=0.3)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = 1 + normal(dim, std=0.3)
        weights[f"{name}.bias"] = normal(dim, std=0.3)

    weights["pos_embed"] = normal(1, (img_size // patch_size) ** 2, dim, std=0.5)
    linear("patch_embed.proj", dim, 3, patch_size, patch_size)
    for i in range(depth // share):
        block = f"blocks.{i}.block"
        for t in range(share):
            norm(f"{block}.norm1.instances.{t}")
            norm(f"{block}.norm2.instances.{t}")
            table = normal(1, dim // num_heads, 49, std=1)
            weights[f"{block}.attn.rpe_k.instances.{t}.lookup_table_weight"] = table
            for conv in ("conv_l", "conv_w"):
                mixer = torch.eye(num_heads).double() + normal(num_heads, num_heads, std=0.4)
                weights[f"{block}.attn.{conv}.instances.{t}.weight"] = mixer[:, :, None, None]
        linear(f"{block}.attn.qkv", 3 * dim, dim)
        linear(f"{block}.attn.proj", dim, dim)
        linear(f"{block}.mlp.fc1", int(mlp_ratio * dim), dim)
        linear(f"{block}.mlp.fc2", dim, int(mlp_ratio * dim))
    norm("norm")
    if num_classes is not None:
        linear("head", num_classes, dim)
    return weights


def logits(
    weights: StateDict,
    images: Tensor,
    *,
    mistake: str | None = None,
    shared: Callable[[str, int], Tensor] | None = None,
) -> Tensor:
    """The classifier's outputs (B, classes), or the pooled tokens (B, dim) if there is no head.

    Args:
        weights: A state dict of the official format.
        images: (B, 3, side, side) of the size that the position embedding is for.
        mistake: One of :data:`MISTAKES`, made on purpose.
        shared: Gives the weight that a virtual layer uses of those that its block shares, from the
            weight's name and the layer's number. By default it is ``weights``' own.
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
        self.eps = 1e-5 if mistake == "LayerNorm eps 1e-5" else 1e-6

    def run(self, images: Tensor) -> Tensor:
        kernel, bias = (self.weights[f"patch_embed.proj.{part}"] for part in ("weight", "bias"))
        x = F.conv2d(images, kernel, bias, stride=kernel.shape[-1])
        self.buckets = self.bucket_numbers(x.shape[-2], x.shape[-1])
        x = x.flatten(2).transpose(1, 2) + self.weights["pos_embed"]
        for layer, (i, t) in enumerate(self.order()):
            x = self.layer(x, f"blocks.{i}.block", t, layer)
        if self.wrong == "mean before the last norm":
            x = self.norm(x.mean(dim=1), "norm")
        else:
            x = self.norm(x, "norm").mean(dim=1)
        if "head.weight" in self.weights:
            x = F.linear(x, self.weights["head.weight"], self.weights["head.bias"])
        return x

    def order(self) -> list[tuple[int, int]]:
        """Block and step of each virtual layer: 0 0, 0 1, 1 0, 1 1, …"""
        blocks = self.count("blocks.{}.block.norm1.instances.0.weight")
        steps = self.count("blocks.0.block.norm1.instances.{}.weight")
        if self.wrong == "all blocks once, then all again":
            return [(i, t) for t in range(steps) for i in range(blocks)]
        if self.wrong == "steps swapped":
            return [(i, t) for i in range(blocks) for t in reversed(range(steps))]
        if self.wrong == "first step's parts throughout":
            return [(i, 0) for i in range(blocks) for _ in range(steps)]
        return [(i, t) for i in range(blocks) for t in range(steps)]

    def layer(self, x: Tensor, block: str, t: int, layer: int) -> Tensor:
        norm1, norm2 = f"{block}.norm1.instances.{t}", f"{block}.norm2.instances.{t}"
        if self.wrong == "norms after the branches":
            x = x + self.norm(self.attention(x, f"{block}.attn", t, layer), norm1)
            return x + self.norm(self.mlp(x, f"{block}.mlp", layer), norm2)
        x = x + self.attention(self.norm(x, norm1), f"{block}.attn", t, layer)
        return x + self.mlp(self.norm(x, norm2), f"{block}.mlp", layer)

    def attention(self, x: Tensor, attn: str, t: int, layer: int) -> Tensor:
        """A = L (s q kᵀ + R(s q)); proj(M softmax(A) v), with L and M over heads."""
        mix_logits = self.weights[f"{attn}.conv_l.instances.{t}.weight"][:, :, 0, 0]
        mix_weights = self.weights[f"{attn}.conv_w.instances.{t}.weight"][:, :, 0, 0]
        mix_logits = mix_logits.T if self.wrong == "logit mixer transposed" else mix_logits
        mix_weights = mix_weights.T if self.wrong == "weight mixer transposed" else mix_weights
        if self.wrong == "mixers exchanged":
            mix_logits, mix_weights = mix_weights, mix_logits
        table = self.weights[f"{attn}.rpe_k.instances.{t}.lookup_table_weight"]

        heads, head_dim = len(mix_logits), table.shape[1]
        qkv = self.linear(x, f"{attn}.qkv", layer)
        if self.wrong == "qkv rows grouped by head":
            q, k, v = qkv.unflatten(-1, (heads, 3, head_dim)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = qkv.unflatten(-1, (3, heads, head_dim)).permute(2, 0, 3, 1, 4)
        raw, q = q, q * head_dim**-0.5
        if self.wrong == "queries unscaled":
            q = raw

        source = raw if self.wrong == "relative positions of unscaled queries" else q
        if self.wrong == "relative positions of the keys":
            relative = torch.einsum("bhjd,dij->bhij", k, table[0][:, self.buckets])
        else:
            relative = torch.einsum("bhid,dij->bhij", source, table[0][:, self.buckets])
        if self.wrong == "relative positions dropped":
            relative = torch.zeros_like(relative)

        logits = q @ k.transpose(-1, -2)
        late = self.wrong == "relative positions after the mixer"
        logits = logits if late else logits + relative
        if self.wrong != "logit mixer dropped":
            logits = mix(logits, mix_logits)
        logits = logits + relative if late else logits
        if self.wrong == "weight mixer before the softmax":
            attention = mix(logits, mix_weights).softmax(dim=-1)
        elif self.wrong == "weight mixer dropped":
            attention = logits.softmax(dim=-1)
        else:
            attention = mix(logits.softmax(dim=-1), mix_weights)
        x = (attention @ v).transpose(1, 2).flatten(2)
        return self.linear(x, f"{attn}.proj", layer)

    def mlp(self, x: Tensor, mlp: str, layer: int) -> Tensor:
        approximation = "tanh" if self.wrong == "tanh GELU" else "none"
        x = F.gelu(self.linear(x, f"{mlp}.fc1", layer), approximate=approximation)
        return self.linear(x, f"{mlp}.fc2", layer)

    def bucket_numbers(self, height: int, width: int) -> Tensor:
        """Number of the bucket of each query i and key j (N, N), both in row-major order."""
        rows = torch.arange(height).repeat_interleave(width)
        columns = torch.arange(width).repeat(height)
        down = self.signed_bucket(rows[:, None] - rows[None, :])
        right = self.signed_bucket(columns[:, None] - columns[None, :])
        if self.wrong == "rows and columns of the relative positions exchanged":
            down, right = right, down
        if self.wrong == "offsets of the relative positions negated":
            down, right = -down, -right
        return (down + 3) * 7 + right + 3

    def signed_bucket(self, offset: Tensor) -> Tensor:
        """0 → 0, 1 → 1, 2 and 3 → 2, more → 3, with the offset's sign."""
        if self.wrong == "distances clipped instead of bucketed":
            return offset.clamp(-3, 3)
        distance = offset.abs()
        bucket = (distance >= 1).long() + (distance >= 2).long() + (distance >= 4).long()
        return offset.sign() * bucket

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


def mix(attention: Tensor, mixer: Tensor) -> Tensor:
    """(B, heads, N, N) mixed over heads by (out head, in head)."""
    return torch.einsum("oh,bhij->boij", mixer, attention)
