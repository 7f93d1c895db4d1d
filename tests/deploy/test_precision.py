"""Graphs with weights of 16 and 8 bits: what they compute, what they store, when they run what."""

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from small_classifiers import BACKBONES, SIDE, small_classifier
from torch import Tensor, nn

from halvit_mm.deploy.export import make_graph
from halvit_mm.deploy.graph import LARGE, keep_weights_single
from halvit_mm.deploy.int8 import quantise
from halvit_mm.deploy.precision import (
    PRECISIONS,
    set_precision,
    to_dynamic_int8,
    to_float16,
    to_int8_weights,
)
from halvit_mm.deploy.programs import exportable
from halvit_mm.errors import UserError
from halvit_mm.layers import TiedFFN

pytestmark = pytest.mark.xdist_group("precisions")  # its exports are made once

SMALLER = PRECISIONS[1:]
#: All backbones; those that add nothing to the others take their time in full runs only.
NAMES = [
    name
    if name in ("halvit", "halvit with corrections", "mini_swin", "half_resnet")
    else pytest.param(name, marks=pytest.mark.full)
    for name in BACKBONES
]
STORED = {"fp16": onnx.TensorProto.FLOAT16} | dict.fromkeys(SMALLER[1:], onnx.TensorProto.INT8)


@cache
def single(name: str) -> tuple[nn.Module, ir.Model]:
    """A classifier and its graph, whose weights are 32-bit floats."""
    module = exportable(small_classifier(name))
    graph = make_graph(module, (SIDE, SIDE), any_size=False, any_batch=True)
    keep_weights_single(graph)
    return module, graph


def at(precision: str, graph: ir.Model) -> bytes:
    graph = graph.clone()
    set_precision(graph, precision)
    return ir.to_proto(graph).SerializeToString()


def session(graph: bytes, **settings: object) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(graph: bytes, pixels: Tensor) -> Tensor:
    return torch.from_numpy(session(graph).run(None, {"image": pixels.numpy()})[0])


def apart(a: Tensor, b: Tensor) -> float:
    """The difference in units of the second."""
    return float((a - b).norm() / b.norm())


def weights(graph: bytes) -> dict[str, onnx.TensorProto]:
    """The large tensors of a graph that are no vectors."""
    return {
        value.name: value
        for value in onnx.load_from_string(graph).graph.initializer
        if np.prod(value.dims) >= LARGE and np.prod(value.dims) > max(value.dims)
    }


def round_weights(module: nn.Module, rounded: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy with weights as a smaller graph has them."""
    module = deepcopy(module)
    for parameter in module.parameters():
        if parameter.numel() >= LARGE and parameter.numel() > max(parameter.shape):
            parameter.data = rounded(parameter.data)
    return module


def by_rows(weight: Tensor) -> Tensor:
    """w → s round(w / s), s = max |w| / 127 of each output channel; embeddings stay."""
    if weight.ndim == 3:
        return weight
    scale = weight.abs().flatten(1).amax(1) / 127
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    return scale * (weight / scale).round()


class Tokens(nn.Module):
    """A layer as a graph of images: each channel's 8 × 16 pixels are a token."""

    output_names = ("tokens",)

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """(B, 3, 8, 16) → (B, 3, 128)."""
        return (self.layer(image.flatten(2) / 100 - 0.7),)


def graph_of(layer: nn.Module) -> ir.Model:
    graph = make_graph(Tokens(layer).eval(), (8, 16), any_size=False, any_batch=True)
    keep_weights_single(graph)
    return graph


def activations(x: Tensor) -> Tensor:
    """As DynamicQuantizeLinear is defined: unsigned, with a zero point, one scale for all."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    step = (high - low) / 255
    zero = (-low / step).round()
    return ((x / step).round() + zero).clamp(0, 255).sub(zero) * step


@pytest.mark.parametrize("name", NAMES)
def test_16_bits_round_the_weights_and_nothing_else(name: str) -> None:
    module, graph = single(name)
    pixels = torch.rand(2, 3, SIDE, SIDE) * 255
    rounded = round_weights(module, lambda weight: weight.half().float())
    with torch.no_grad():
        (expected,) = rounded(pixels)
        (exact,) = module(pixels)
    assert apart(run(at("fp16", graph), pixels), expected) < 1e-4
    assert 1e-5 < apart(expected, exact) < 2e-3


@pytest.mark.parametrize("name", NAMES)
def test_8_bit_weights_are_those_of_the_formula(name: str) -> None:
    module, graph = single(name)
    pixels = torch.rand(2, 3, SIDE, SIDE) * 255
    with torch.no_grad():
        (expected,) = round_weights(module, by_rows)(pixels)
        (exact,) = module(pixels)
    assert apart(run(at("int8-weights", graph), pixels), expected) < 1e-4
    assert 5e-4 < apart(expected, exact) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_8_bit_products_stay_near(name: str) -> None:
    module, graph = single(name)
    kinds = [node.op_type for node in onnx.load_from_string(at("int8-dynamic", graph)).graph.node]
    of_weights = [w for w in weights(at("fp32", graph)).values() if len(w.dims) == 2]
    # All products with large weights are in integers; the classifier of ten classes is small.
    assert kinds.count("MatMulInteger") >= len(of_weights)
    assert kinds.count("Gemm") <= 1
    for batch in (1, 3):
        pixels = torch.rand(batch, 3, SIDE, SIDE) * 255
        with torch.no_grad():
            (exact,) = module(pixels)
        assert 1e-3 < apart(run(at("int8-dynamic", graph), pixels), exact) < 0.1


def test_8_bit_products_of_a_tied_layer_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    layer = TiedFFN(128, 512, init_std=0.1)
    layer.bias_in.data.normal_()
    layer.bias_out.data.normal_()
    graph = at("int8-dynamic", graph_of(layer))
    image = torch.rand(5, 3, 8, 16) * 255

    weight = layer.weight.data
    scale = weight.abs().amax(1) / 127
    integers = (weight / scale[:, None]).round()
    x = activations(image.flatten(2) / 100 - 0.7)
    hidden = nn.functional.gelu((x @ integers.T) * scale + layer.bias_in.data)
    expected = activations(hidden * scale) @ integers + layer.bias_out.data

    assert apart(run(graph, image), expected) < 1e-4
    (stored,) = weights(graph).values()
    assert np.array_equal(numpy_helper.to_array(stored), integers.numpy())


def test_8_bit_products_of_a_dense_layer_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128, bias=False))
    graph = at("int8-dynamic", graph_of(layer))
    assert [value.name for value in session(graph).get_outputs()] == ["tokens"]
    image = torch.rand(5, 3, 8, 16) * 255
    first, second = (by_rows(layer[i].weight.data) for i in (0, 2))
    hidden = activations(image.flatten(2) / 100 - 0.7) @ first.T + layer[0].bias.data
    expected = activations(nn.functional.gelu(hidden)) @ second.T
    assert apart(run(graph, image), expected) < 1e-4


def test_convolutions_have_a_scale_for_each_output_channel() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ConvTranspose2d(64, 32, 2, stride=2))
    layers[0].weight.data *= torch.logspace(-2, 2, 64)[:, None, None, None]
    layers[1].weight.data *= torch.logspace(-2, 2, 32)[None, :, None, None]

    class Maps(nn.Module):
        output_names = ("map",)

        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, image: Tensor) -> tuple[Tensor]:
            return (self.layers(image),)

    graph = make_graph(Maps().eval(), (16, 24), any_size=False, any_batch=True)
    keep_weights_single(graph)
    image = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        exact = layers(image)
        layers[0].weight.data = by_rows(layers[0].weight.data)
        layers[1].weight.data = by_rows(layers[1].weight.data.transpose(0, 1)).transpose(0, 1)
        expected = layers(image)
    for precision in ("int8-weights", "int8-dynamic"):
        got = run(at(precision, graph), image)
        assert apart(got, expected) < 1e-5
        assert apart(got, exact) > 1e-3


@pytest.mark.parametrize("precision", SMALLER)
@pytest.mark.parametrize("name", NAMES)
def test_each_weight_is_stored_once(name: str, precision: str, tmp_path: Path) -> None:
    _, graph = single(name)
    smaller = at(precision, graph)
    before, after = weights(ir.to_proto(graph).SerializeToString()), weights(smaller)
    assert after.keys() == before.keys()
    kinds = [value.data_type for value in after.values()]
    assert kinds.count(STORED[precision]) >= 0.8 * len(kinds)
    contents = [np.sort(numpy_helper.to_array(v), axis=None).tobytes() for v in after.values()]
    assert len(set(contents)) == len(contents)

    # What onnxruntime keeps when it has loaded the graph is as large, too.
    path = tmp_path / "optimised.onnx"
    loaded = session(smaller, optimized_model_filepath=str(path))
    assert [value.name for value in loaded.get_inputs()] == ["image"]
    assert [value.name for value in loaded.get_outputs()] == ["logits"]
    kept = sum(numpy_helper.to_array(v).nbytes for v in onnx.load(path).graph.initializer)
    given = sum(
        numpy_helper.to_array(v).nbytes for v in onnx.load_from_string(smaller).graph.initializer
    )
    assert kept <= 1.02 * given


@pytest.mark.parametrize("precision", PRECISIONS)
def test_files_are_half_as_large_as_the_dense_twins(precision: str) -> None:
    sizes = {}
    for dense in (False, True):
        arch = dict(dim=512, depth=2, num_heads=8)
        model = small_classifier("halvit", dense=dense, arch=arch, img_size=32, patch_size=8)
        model.head.fc = nn.Linear(512, 10)
        graph = make_graph(exportable(model), (32, 32), any_size=False, any_batch=True)
        keep_weights_single(graph)
        sizes[dense] = len(at(precision, graph))
        parameters = sum(p.numel() for p in model.parameters())
        bits = {"fp32": 32, "fp16": 16}.get(precision, 8)
        assert sizes[dense] <= 1.1 * parameters * bits / 8
    assert sizes[False] <= 0.52 * sizes[True]


@pytest.mark.parametrize("precision", SMALLER)
@pytest.mark.parametrize("dense", [False, True])
def test_weights_are_restored_one_by_one(precision: str, dense: bool, tmp_path: Path) -> None:
    """Each right before it is needed, so that few of them are in memory at once."""
    model = small_classifier("halvit", dense=dense, arch=dict(dim=64, depth=6, num_heads=4))
    graph = make_graph(exportable(model), (SIDE, SIDE), any_size=False, any_batch=True)
    keep_weights_single(graph)
    profiled = session(
        at(precision, graph), enable_profiling=True, profile_file_prefix=str(tmp_path / "run")
    )
    profiled.run(None, {"image": np.zeros((1, 3, SIDE, SIDE), np.float32)})
    events = json.loads(Path(profiled.end_profiling()).read_text())
    restores = {"fp16": "Cast", "int8-weights": "DequantizeLinear", "int8-dynamic": "Transpose"}
    waiting, most, total = 0, 0, 0
    for event in sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: e["ts"]):
        made = event["args"].get("output_type_shape", [])
        op = event["args"].get("op_name", "")
        if op == restores[precision] and any(
            len(shape) == 2 and np.prod(shape) >= LARGE for out in made for shape in out.values()
        ):
            waiting, total = waiting + 1, total + 1
        elif "Gemm" in op or "MatMul" in op:
            waiting = 0
        most = max(most, waiting)
    if dense and precision == "int8-dynamic":
        assert total == 0  # the weights are stored as they are needed
    else:
        assert total >= 18
        assert most <= 2


def test_quantised_weights_are_nearest() -> None:
    values = np.random.default_rng(0).normal(size=(6, 50, 3)).astype(np.float32)
    values[:, 7] = 0
    for largest in (127, 63):
        integers, scale = quantise(values, 1, largest=largest)
        assert integers.dtype == np.int8 and scale.shape == (50,)
        assert np.abs(integers).max() == largest and not integers[:, 7].any()
        error = np.abs(integers * scale[:, None] - values)
        assert (error <= 0.5001 * scale[:, None]).all() and np.isfinite(scale).all()


def test_weights_can_have_7_bits() -> None:
    _, graph = single("halvit")
    graph = graph.clone()
    names = to_dynamic_int8(graph, reduce_range=True)
    proto = ir.to_proto(graph).SerializeToString()
    largest = {
        name: np.abs(numpy_helper.to_array(value).astype(int)).max()
        for name, value in weights(proto).items()
        if name in names
    }
    convolutions = {name for name, top in largest.items() if top == 127}
    assert {top for name, top in largest.items() if name not in convolutions} == {63}
    assert len(convolutions) == 1 < len(names)
    pixels = torch.rand(2, 3, SIDE, SIDE) * 255
    assert apart(run(proto, pixels), run(at("fp32", single("halvit")[1]), pixels)) < 0.1


def test_names_of_the_weights_are_returned() -> None:
    for change, kind in (
        (to_float16, ir.DataType.FLOAT16),
        (to_int8_weights, ir.DataType.INT8),
        (to_dynamic_int8, ir.DataType.INT8),
    ):
        graph = single("half_resnet")[1].clone()
        names = change(graph)
        stored = {v.name for v in graph.graph.initializers.values() if v.dtype == kind}
        assert set(names) == stored and len(names) == len(stored) > 20


def test_weights_too_large_for_16_bits_stay() -> None:
    layer = nn.Linear(128, 128)
    layer.weight.data[0, 0] = 1e5
    graph = graph_of(layer)
    assert to_float16(graph) == ()
    image = torch.rand(1, 3, 8, 16)
    assert run(ir.to_proto(graph).SerializeToString(), image).isfinite().all()


def test_32_bits_leave_the_graph_alone() -> None:
    _, graph = single("halvit")
    assert at("fp32", graph) == ir.to_proto(graph).SerializeToString()


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(UserError, match=r"int4.*choose from fp32, fp16"):
        set_precision(single("halvit")[1].clone(), "int4")
