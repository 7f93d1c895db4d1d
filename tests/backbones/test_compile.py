"""Backbones under ``torch.compile``: one whole graph, the same numbers, one graph for all sizes."""

import copy
import re
import shutil

import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code

import halvit_mm  # noqa: F401
from halvit_mm.layers import TiedAttention, TiedFFN

PLAIN = dict(dim=16, depth=2, num_heads=2)
SWIN = dict(dim=8, depths=(2, 2), num_heads=(1, 2))
HALF_CNN = dict(
    depth=50,
    base_channels=8,
    num_stages=2,
    strides=(1, 2),
    dilations=(1, 1),
    tied_stages=(2,),
    out_indices=(0, 1),
)
#: On maps of 4 × 4 or more tokens there are windows, padding and shifts.
CASES = {
    "halvit": dict(type="HaLViT", arch=PLAIN, img_size=64, drop_path_rate=0.3, layer_scale=0.1),
    "halvit_windows": dict(
        type="HaLViT",
        arch=PLAIN,
        img_size=64,
        with_cls_token=False,
        out_type="featmap",
        out_indices=(0, 1),
        window_size=3,
        global_blocks=(1,),
        rel_pos=True,
        signed_ffn=True,
    ),
    "dense_vit": dict(type="HaLViT", arch=PLAIN, img_size=64, tied=False),
    "mini_deit": dict(type="MiniDeiT", arch=PLAIN, img_size=64, drop_path_rate=0.3),
    "mini_deit_tied_windows": dict(
        type="MiniDeiT", arch=PLAIN, img_size=64, tied=True, window_size=3, global_blocks=(1,)
    ),
    "deit": dict(
        type="MiniDeiT", arch=PLAIN, img_size=64, share=1, transforms=False, with_cls_token=True
    ),
    "mini_swin": dict(
        type="MiniSwin", arch=SWIN, window_size=3, out_indices=(0, 1), drop_path_rate=0.3
    ),
    "mini_swin_tied": dict(
        type="MiniSwin", arch=SWIN, window_size=3, tied=True, mask_all_steps=False
    ),
    "swin": dict(type="MiniSwin", arch=SWIN, window_size=3, share=1, transforms=False),
    "half_resnet": dict(type="HalfResNet", **HALF_CNN),
    "half_resnext": dict(type="HalfResNeXt", groups=2, base_width=32, **HALF_CNN),
}
MODES = dict(
    inference=dict(train=False),
    training=dict(train=True),
    checkpointing=dict(train=True, with_cp=True),
)
#: By default, these run in training mode only, for the sake of time.
FULL_MODES = dict.fromkeys(
    ("dense_vit", "mini_deit_tied_windows", "deit", "mini_swin_tied", "swin"),
    ("inference", "checkpointing"),
)
no_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="inductor needs a C++ compiler"
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make(name: str, *, train: bool, **options) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build({**CASES[name], **options}).train(train)


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height + width))


def run(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs and, while training, the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_(model.training)
    torch.manual_seed(1)  # of stochastic depth
    with torch.set_grad_enabled(model.training):
        outs = model(x)
    results = {f"output {i}": out for i, out in enumerate(outs)}
    if model.training:
        sum((out * out.detach().cos()).sum() for out in outs).backward()
        results["input"] = x.grad
        results |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return results


def assert_same(model: nn.Module, compiled: nn.Module, x: Tensor) -> None:
    """Compiled and eager agree to 1e-4 of the largest value; so do the buffers they leave."""
    twin = copy.deepcopy(model)  # what is compiled runs on `model` itself
    expected, got = run(twin, x), run(compiled, x)
    got = {name.removeprefix("_orig_mod."): value for name, value in got.items()}
    expected |= dict(twin.named_buffers())
    got |= dict(model.named_buffers())
    assert got.keys() == expected.keys()
    scale = {name: value.abs().max().clamp(min=1e-3) for name, value in expected.items()}
    torch.testing.assert_close(
        {name: value / scale[name] for name, value in got.items()},
        {name: value / scale[name] for name, value in expected.items()},
        rtol=0,
        atol=1e-4,
    )
    model.zero_grad()


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(
            name, mode, marks=[pytest.mark.full] if mode in FULL_MODES.get(name, ()) else []
        )
        for name in CASES
        for mode in MODES
    ],
)
def test_whole_graph(name, mode):
    """No graph break, forward or backward, on images that are padded; nothing is dropped twice."""
    model = make(name, **MODES[mode])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(model, compiled, images(75, 90))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("halvit", [(64, 96), (75, 90), (128, 64), (64, 64)]),
        *(
            pytest.param(name, sizes, marks=pytest.mark.full)
            for name, sizes in {
                # The last ones have the size of the position embedding or divide into windows.
                "halvit_windows": [(70, 130), (64, 96), (100, 110), (96, 96)],
                "dense_vit": [(64, 96), (75, 90), (64, 64)],
                "mini_deit": [(64, 96), (75, 90), (128, 64), (64, 64)],
                "mini_deit_tied_windows": [(70, 130), (64, 96), (96, 96)],
                "deit": [(64, 96), (75, 90), (64, 64)],
                "mini_swin": [(70, 130), (64, 96), (100, 75), (96, 96)],
                "swin": [(70, 130), (64, 96), (100, 75), (96, 96)],
                # Others differ in how the stem's pooling ends, in torchvision's ResNet as well.
                "half_resnet": [(64, 96), (72, 104), (128, 64)],
                "half_resnext": [(64, 96), (72, 104), (128, 64)],
            }.items()
        ),
    ],
)
@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
def test_one_graph_serves_all_sizes(name, sizes, train):
    model = make(name, train=train)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    assert_same(model, compiled, images(*sizes[0]))
    with torch.compiler.set_stance("fail_on_recompile"):
        for size in sizes[1:]:
            assert_same(model, compiled, images(*size))


@pytest.mark.full
def test_sizes_marked_dynamic_are_not_specialised():
    """`mark_dynamic` raises where the code asks for one size or another."""
    model = make("halvit", train=False)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = images(75, 90)
    torch._dynamo.mark_dynamic(x, (2, 3))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], model(x)[0])


@no_compiler
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        # Of windows inductor must find out that no index is negative.
        ("halvit_windows", "inference"),
        *(
            pytest.param(name, mode, marks=pytest.mark.full)
            for name in CASES
            for mode in ("inference", "training")
            if (name, mode) != ("halvit_windows", "inference")
        ),
    ],
)
def test_inductor(name, mode):
    options = dict(MODES[mode])
    if "half_res" not in name:
        options["drop_path_rate"] = 0.0  # inductor draws other random numbers
    model = make(name, **options)
    x = images(75, 90)
    if "half_res" in name:  # inductor sums in other orders, and a rounding switches ReLUs
        model, x = model.double(), x.double()
    compiled = torch.compile(model, fullgraph=True)
    assert_same(model, compiled, x)


@no_compiler
def test_inductor_copies_no_weight():
    """W serves as Wᵀ by its strides; no tensor of its shape, or of its transpose's, is made."""
    ffn = TiedFFN(24, 56)
    attn = TiedAttention(24, 2)
    layer = torch.compile(lambda x: ffn(attn(x)), fullgraph=True)
    with torch.no_grad():
        _, (code,) = run_and_get_code(layer, torch.randn(2, 5, 24))
    made = set(re.findall(r"empty_strided_\w+\(\(([^)]*)\)", code))
    assert made, "no tensor is made: the pattern is out of date"
    of_weights = {"56, 24", "24, 56", "48, 24", "24, 48", "24, 24"}
    assert not made & of_weights, made & of_weights
