"""Properties of the layers: any fitting input gives the right shape, any other a clear error."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from odd_inputs import LAYOUTS, WRONG_VALUES, laid_out, random, refused
from torch import nn

from halvit_mm.layers import (
    DecomposedRelativePosition,
    DenseAttention,
    DenseFFN,
    DenseStage,
    HeadMixer,
    ImageRelativePosition,
    LayerNorm2d,
    LayerScale,
    LocalConv,
    MultiplexedBlock,
    SignedGELU,
    TiedAttention,
    TiedFFN,
    TiedResNetStage,
    TiedResNeXtStage,
    TransformerBlock,
    WindowLayout,
    WindowRelativePosition,
    resize_position_embedding,
    window_merge,
    window_partition,
)

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
MAP = st.tuples(st.integers(1, 9), st.integers(1, 9))
STAGE = dict(dilation=1, groups=1, norm=nn.BatchNorm2d, stride=1, depth=1)
DOUBLE = torch.float64


def slow_attention(layer: TiedAttention, x: torch.Tensor) -> torch.Tensor:
    """The equation, head by head."""
    w_q, w_kv = layer.weight.chunk(2)
    b_q, b_k, b_v = layer.bias_qkv.chunk(3)
    q, k, v = x @ w_q.t() + b_q, x @ w_kv.t() + b_k, x @ w_kv + b_v
    heads = zip(*(t.chunk(layer.num_heads, -1) for t in (q, k, v)), strict=True)
    seen = [(a @ b.mT / a.shape[-1] ** 0.5).softmax(-1) @ c for a, b, c in heads]
    return torch.cat(seen, -1) @ w_q + layer.bias_out


@given(
    batch=st.integers(0, 4),
    tokens=st.integers(0, 30),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 5),
    dtype=DTYPES,
)
@pytest.mark.parametrize("layer", [TiedAttention, DenseAttention])
def test_attention_takes_any_number_of_tokens(layer, batch, tokens, heads, head_dim, dtype):
    attention = layer(heads * head_dim, heads, init_std=0.5).to(dtype)
    x = random(batch, tokens, heads * head_dim, dtype=dtype).requires_grad_()
    out = attention(x)
    assert out.shape == x.shape and out.dtype == dtype and out.isfinite().all()
    out.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in attention.parameters())
    if layer is TiedAttention and dtype == DOUBLE:
        torch.testing.assert_close(out, slow_attention(attention, x))


@given(
    lead=st.lists(st.integers(0, 4), max_size=4),
    dim=st.integers(1, 9),
    hidden=st.integers(1, 20),
    dtype=DTYPES,
    swap=st.booleans(),
)
@pytest.mark.parametrize("layer", [TiedFFN, DenseFFN])
def test_feed_forward_takes_any_leading_dimensions(layer, lead, dim, hidden, dtype, swap):
    ffn = layer(dim, hidden).to(dtype)
    x = random(*lead, dim, dtype=dtype)
    x = (x.transpose(0, -2).contiguous().transpose(0, -2) if swap and lead else x).requires_grad_()
    out = ffn(x)
    assert out.shape == x.shape and out.dtype == dtype and out.isfinite().all()
    out.sum().backward()
    assert x.grad.shape == x.shape and all(p.grad is not None for p in ffn.parameters())
    if layer is TiedFFN and dtype == DOUBLE:
        hidden_layer = nn.functional.gelu(x @ ffn.weight.t() + ffn.bias_in)
        torch.testing.assert_close(out, hidden_layer @ ffn.weight + ffn.bias_out)


@given(batch=st.integers(0, 3), size=MAP, window=MAP, step=st.integers(0, 1), data=st.data())
def test_blocks_take_any_map_and_any_window(batch, size, window, step, data):
    shift = data.draw(st.tuples(*(st.integers(0, side) for side in window)))
    layout = WindowLayout(size, window, shift=shift)
    block = MultiplexedBlock(
        6, 2, 8, steps=2, tied=("attn", "ffn"), window_rel_pos=window, mixer_bias=True
    ).double()
    x = random(batch, size[0] * size[1], 6, dtype=DOUBLE).requires_grad_()
    out = block(x, layout, step)
    assert out.shape == x.shape and out.isfinite().all()
    out.square().sum().backward()
    assert x.grad.isfinite().all()
    alone = [block(image[None], layout, step) for image in x]
    if batch:
        torch.testing.assert_close(torch.cat(alone), out)


@given(batch=st.integers(0, 3), size=MAP, window=MAP, channels=st.integers(1, 3))
def test_windows_are_merged_as_they_were_cut(batch, size, window, channels):
    x = random(batch, *size, channels)
    windows = window_partition(x, window)
    count = -(-size[0] // window[0]) * -(-size[1] // window[1])
    assert windows.shape == (batch * count, window[0] * window[1], channels)
    if batch:
        assert torch.equal(window_merge(windows, window, size), x)


@given(
    batch=st.integers(0, 3),
    sides=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    stride=st.integers(1, 3),
    layout=st.sampled_from(LAYOUTS),
    dtype=DTYPES,
    with_cp=st.booleans(),
)
@pytest.mark.parametrize("stage", [TiedResNetStage, TiedResNeXtStage, DenseStage])
def test_stages_take_any_map(stage, batch, sides, stride, layout, dtype, with_cp):
    options = {**STAGE, "stride": stride, "with_cp": with_cp}
    sizes = dict(planes=2, base_width=64) if stage is DenseStage else {}
    if stage is not DenseStage:
        sizes = dict(out_channels=8, width=2)
    layer = stage(4, **sizes, **options).to(dtype).eval()
    x = laid_out(random(batch, 4, *sides, dtype=dtype), layout).requires_grad_()
    out = layer(x)
    assert out.shape == (batch, 8, *(-(-side // stride) for side in sides))
    assert out.dtype == dtype and out.isfinite().all()
    out.sum().backward()
    assert x.grad.shape == x.shape and all(p.grad.isfinite().all() for p in layer.parameters())


@given(source=MAP, target=MAP, dtype=DTYPES)
def test_position_embeddings_are_resized_to_any_map(source, target, dtype):
    pos = random(1, source[0] * source[1], 3, dtype=dtype)
    resized = resize_position_embedding(pos, source, target)
    assert resized.shape == (1, target[0] * target[1], 3) and resized.dtype == dtype
    assert resized.isfinite().all()
    if source == target:
        assert resized is pos
    constant = resize_position_embedding(torch.ones_like(pos), source, target)
    torch.testing.assert_close(constant, torch.ones_like(constant))


@given(learned=MAP, size=MAP, batch=st.integers(0, 3))
def test_relative_positions_serve_any_map(learned, size, batch):
    tokens = size[0] * size[1]
    q = random(batch, 2, tokens, 3)
    for layer in (ImageRelativePosition(3), DecomposedRelativePosition(learned, 3)):
        assert layer(q, size).shape == (batch, 2, tokens, tokens)
    of_window = WindowRelativePosition(learned, 2)
    if size[0] <= learned[0] and size[1] <= learned[1]:
        assert of_window(q, size).shape == (1, 2, tokens, tokens)
    else:
        refused(lambda: of_window(q, size), "larger than the window")


X = random(2, 6, 4)  # tokens of a map of 2 × 3
Q = random(2, 2, 6, 2)
BLOCK = TransformerBlock(4, 2, 6)
WINDOWED = TransformerBlock(4, 2, 6, window=(2, 2))
SHARED = MultiplexedBlock(4, 2, 6, steps=2)
LAYOUT = WindowLayout((2, 3))
#: A name of the case: what to call, and words of the sentence that refuses it.
WRONG_INPUTS = {
    "ffn_width": (lambda: TiedFFN(4, 6)(X[..., :3]), "last dimension must be 4"),
    "ffn_scalar": (lambda: TiedFFN(4, 6)(torch.tensor(1.0)), "last dimension must be 4"),
    "ffn_double": (lambda: TiedFFN(4, 6)(X.double()), "torch.float64"),
    "ffn_whole": (lambda: TiedFFN(4, 6)(X.long()), "torch.int64"),
    "dense_ffn_width": (lambda: DenseFFN(4, 6)(X[..., :3]), "last dimension must be 4"),
    "dense_ffn_half": (lambda: DenseFFN(4, 6)(X.half()), "torch.float16"),
    "attention_width": (lambda: TiedAttention(4, 2)(X[..., :3]), "(B, N, 4)"),
    "attention_no_batch": (lambda: TiedAttention(4, 2)(X[0]), "(B, N, 4)"),
    "attention_map": (lambda: TiedAttention(4, 2)(X[:, None]), "(B, N, 4)"),
    "attention_complex": (lambda: TiedAttention(4, 2)(X.cfloat()), "torch.complex64"),
    "attention_double": (lambda: TiedAttention(4, 2)(X.double()), "torch.float64"),
    "attention_array": (lambda: TiedAttention(4, 2)(X.numpy()), "ndarray"),
    "dense_attention_map": (lambda: DenseAttention(4, 2)(X[:, None]), "(B, N, 4)"),
    "signed_width": (lambda: SignedGELU(4)(X[..., :1]), "last dimension must be 4"),
    "block_size": (lambda: BLOCK(X, (2, 4)), "(B, 2 · 4, 4)"),
    "block_two_more": (lambda: BLOCK(X, (1, 4)), "or one more in front"),
    "block_class_token": (lambda: WINDOWED(X[:, :5], (2, 2)), "(B, 2 · 2, 4)"),
    "block_width": (lambda: BLOCK(X[..., :3], (2, 3)), "(B, 2 · 3, 4)"),
    "block_side": (lambda: WINDOWED(X[:, :0], (0, 3)), "size=(0, 3)"),
    "shared_size": (lambda: SHARED(X[:, :5], LAYOUT, 0), "(B, 2 · 3, 4)"),
    "shared_step": (lambda: SHARED(X, LAYOUT, 2), "step=2", "0 to 1"),
    "shared_step_before": (lambda: SHARED(X, LAYOUT, -1), "step=-1"),
    "mixer_heads": (lambda: HeadMixer(3)(Q), "(·, 3, ·, ·)"),
    "mixer_dimensions": (lambda: HeadMixer(2)(Q[0]), "(·, 2, ·, ·)"),
    "local_size": (lambda: LocalConv(4, 3)(X, (2, 2)), "(B, 2 · 2, 4)"),
    "norm_channels": (lambda: LayerNorm2d(3)(Q), "(B, 3, height, width)"),
    "norm_dimensions": (lambda: LayerNorm2d(2)(Q[0]), "(B, 2, height, width)"),
    "image_position_map": (lambda: ImageRelativePosition(2)(Q, (2, 2)), "(·, ·, 4, ·)"),
    "image_position_width": (lambda: ImageRelativePosition(3)(Q, (2, 3)), "must be 3"),
    "split_position_width": (
        lambda: DecomposedRelativePosition((2, 3), 3)(Q, (2, 3)),
        "must be 3",
    ),
    "window_dimensions": (lambda: window_partition(X, (2, 2)), "a token map of shape"),
    "window_side": (lambda: window_partition(X[:, None], (0, 2)), "window=(0, 2)"),
    "window_number": (lambda: window_partition(X[:, None], 2), "window=2"),
    "merge_tokens": (lambda: window_merge(X, (2, 2), (2, 2)), "windows of shape"),
    "layout_size": (lambda: WindowLayout((0, 3)), "size=(0, 3)"),
    "layout_window": (lambda: WindowLayout((2, 3), (1.5, 2)), "window=(1.5, 2)"),
    "layout_shift": (lambda: WindowLayout((2, 3), (2, 2), shift=(-1, 0)), "shift=(-1, 0)"),
    "layout_tokens": (lambda: WindowLayout((2, 2), (1, 2)).partition(X), "(B, 2 · 2, 4)"),
    "position_grid": (lambda: resize_position_embedding(X, (2, 2), (3, 3)), "position embedding"),
    "position_target": (lambda: resize_position_embedding(X, (2, 3), (0, 3)), "target=(0, 3)"),
    "stage_channels": (
        lambda: TiedResNetStage(3, 6, width=2, **STAGE)(Q),
        "(B, 3, height, width)",
    ),
    "stage_type": (
        lambda: TiedResNeXtStage(2, 6, width=2, **STAGE)(Q.double()),
        "torch.float64",
    ),
    "dense_stage_dimensions": (
        lambda: DenseStage(2, 2, base_width=64, **STAGE)(Q[0]),
        "(B, 2, height, width)",
    ),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_what_does_not_fit_is_refused_in_one_sentence(case):
    call, *words = WRONG_INPUTS[case]
    refused(call, *words)


CONSTRUCTORS = {
    "TiedFFN": (TiedFFN, dict(dim=4, hidden_dim=6, init_std=0.1, second_rank=1)),
    "DenseFFN": (DenseFFN, dict(dim=4, hidden_dim=6, init_std=0.1)),
    "TiedAttention": (TiedAttention, dict(dim=4, num_heads=2, init_std=0.1, second_rank=1)),
    "DenseAttention": (DenseAttention, dict(dim=4, num_heads=2, init_std=0.1)),
    "SignedGELU": (SignedGELU, dict(channels=4)),
    "LayerScale": (partial(LayerScale, 4), dict(init=0.1)),
    "HeadMixer": (HeadMixer, dict(num_heads=2)),
    "LocalConv": (LocalConv, dict(dim=4, kernel_size=3)),
    "TransformerBlock": (
        TransformerBlock,
        dict(dim=4, num_heads=2, hidden_dim=6, drop_path=0.1, signed_ffn=False, init_std=0.1),
    ),
    "MultiplexedBlock": (
        MultiplexedBlock,
        dict(dim=4, num_heads=2, hidden_dim=6, steps=2, drop_path=(0, 0.1), init_std=0.1),
    ),
    "ImageRelativePosition": (ImageRelativePosition, dict(head_dim=2)),
    "WindowRelativePosition": (WindowRelativePosition, dict(window=(2, 2), num_heads=2)),
    "DecomposedRelativePosition": (
        DecomposedRelativePosition,
        dict(size=(2, 2), head_dim=2),
    ),
    "TiedResNetStage": (
        partial(TiedResNetStage, norm=nn.BatchNorm2d),
        dict(in_channels=2, out_channels=4, width=2, depth=1, stride=1, dilation=1, groups=1),
    ),
    "TiedResNeXtStage": (
        partial(TiedResNeXtStage, norm=nn.BatchNorm2d, groups=1),
        dict(in_channels=2, out_channels=4, width=2, depth=1, stride=1, dilation=1, with_cp=False),
    ),
    "DenseStage": (
        partial(DenseStage, norm=nn.BatchNorm2d, groups=1),
        dict(in_channels=2, planes=2, depth=1, stride=1, dilation=1, base_width=64, style="caffe"),
    ),
}


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name, (_, options) in CONSTRUCTORS.items() for option in options],
)
def test_options_are_taken_or_refused_by_name(name, option):
    make, options = CONSTRUCTORS[name]
    word = {"init": "layer_scale"}.get(option, option)
    taken = 0
    for value in WRONG_VALUES:
        try:
            make(**{**options, option: value})
            taken += 1
        except (ValueError, TypeError):
            refused(partial(make, **{**options, option: value}), word)
    assert taken < len(WRONG_VALUES)
