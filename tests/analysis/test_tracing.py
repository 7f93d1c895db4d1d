"""Reads of parameters and multiply-accumulates of single operations, by hand arithmetic."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from halvit_mm.analysis.tracing import OperationCounter
from halvit_mm.backbones import HaLViT


class Tied(nn.Module):
    """W (4, 3) and Wᵀ, a bias in two slices, and a bias made of two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 3))
        self.bias = nn.Parameter(torch.empty(7))
        self.left = nn.Parameter(torch.empty(1))
        self.right = nn.Parameter(torch.empty(2))
        self.token = nn.Parameter(torch.empty(1, 1, 3))
        self.unused = nn.Parameter(torch.empty(5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, 3) → (B, N + 1, 3)."""
        first, second = self.bias.split((4, 3))
        x = F.linear(F.gelu(F.linear(x, self.weight, first)), self.weight.t(), second)
        x = F.linear(x, self.weight[:3], torch.cat((self.left, self.right)))
        return torch.cat((self.token.expand(len(x), -1, -1), x), dim=1)


def count(module: nn.Module, *shapes: tuple[int, ...]) -> OperationCounter:
    module = module.to("meta").eval()
    inputs = [torch.empty(shape, device="meta") for shape in shapes]
    with torch.no_grad(), OperationCounter(module) as counter:
        module(*inputs)
    return counter


def test_reads_of_a_tied_layer():
    # W whole, Wᵀ whole, three rows of W; broadcasting the token over 8 images reads it once.
    reads = count(Tied(), (8, 5, 3)).reads
    assert reads == dict(weight=12 + 12 + 9, bias=4 + 3, left=1, right=2, token=3, unused=0)


def test_a_view_is_not_read_before_it_is_used():
    class Views(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.weight.reshape(-1).detach()[None].expand(9, -1), x + self.bias

    assert count(Views(3, 4), (2, 4)).reads == dict(weight=0, bias=4)


def test_a_transpose_laid_out_once_is_read_at_each_use():
    class Repeated(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            transposed = self.weight.t().contiguous()
            for _ in range(3):
                x = F.linear(F.linear(x, self.weight), transposed)
            return x

    assert count(Repeated(3, 4, bias=False), (2, 3)).reads == dict(weight=6 * 12)


def test_a_convolution_read_as_its_transpose():
    class TiedConv(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.conv2d(x, self.weight), self.weight.transpose(0, 1))

    counter = count(TiedConv(8, 2, 1, bias=False), (1, 8, 5, 7))
    assert counter.reads == dict(weight=2 * 16)
    assert counter.macs == {"": 2 * 16 * 35}


class Deformable(nn.Conv2d):
    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return torchvision.ops.deform_conv2d(x, offset, self.weight, padding=1)


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, k)


@pytest.mark.parametrize(
    ("module", "shapes", "macs"),
    [
        # weight × output positions; groups divide the weight, not the positions
        (nn.Conv2d(8, 6, 3, stride=2, padding=1), [(1, 8, 9, 7)], 6 * 8 * 9 * 5 * 4),
        (nn.Conv2d(8, 4, 3, padding=1, groups=4), [(2, 8, 5, 5)], 2 * 4 * 2 * 9 * 25),
        # a transposed convolution spreads each input position
        (nn.ConvTranspose2d(8, 4, 2, stride=2), [(1, 8, 5, 5)], 8 * 4 * 4 * 25),
        (Deformable(8, 6, 3), [(1, 8, 5, 5), (1, 18, 5, 5)], 6 * 8 * 9 * 25),
        (nn.Linear(8, 6), [(2, 5, 8)], 10 * 8 * 6),
        # queries × keys, then × values
        (Attention(), [(2, 3, 5, 4), (2, 3, 7, 4)], 2 * 3 * 5 * 7 * 4 * 2),
        (nn.Sequential(nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2)), [(1, 8, 4, 4)], 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_macs_by_hand(module, shapes, macs):
    assert count(module, *shapes).macs.total() == macs


def test_macs_belong_to_the_module_by_name_whoever_calls_it():
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.down = nn.Conv2d(3, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([Stage()])

        def forward(self, x: Tensor) -> Tensor:
            for stage in self.stages:
                x = stage.down(stage(x))  # as Swin's downsampling
            return x @ x.mT

    macs = count(Net(), (1, 3, 2, 2)).macs
    assert macs == {"stages.0.conv": 9 * 4, "stages.0.down": 15 * 4, "": 5 * 2 * 2 * 2}


def test_nothing_is_missed_that_pytorchs_own_counter_finds():
    model = HaLViT(
        arch=dict(dim=32, depth=2, num_heads=2),
        with_cls_token=False,
        window_size=3,
        global_blocks=(1,),
        rel_pos=True,
    )
    image = torch.zeros(1, 3, 80, 112)
    with torch.no_grad(), FlopCounterMode(display=False) as reference:
        model.to("meta")(image.to("meta"))
    macs = count(model, image.shape).macs
    assert macs.total() * 2 == reference.get_total_flops() > 0
    assert {"patch_embed", "blocks.0.attn", "blocks.1.attn", "blocks.1.ffn"} <= set(macs)
