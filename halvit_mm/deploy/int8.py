"""Linear layers in 8-bit integers: the activations are quantised while the graph runs.

A product with a weight W (h, d) that is stored as integers W8 with a scale for each row,
W = diag(s) W8, becomes

* ``x Wᵀ = (x W8ᵀ) diag(s)``: x (tokens, d) is quantised and the result scaled for each channel;
* ``h W = (h diag(s)) W8``: h (tokens, h) is scaled for each channel and then quantised, as the
  scales lie along the axis that the product sums over.

So one W8 and one s serve both products of a tied layer. Activations become 8-bit integers without
a sign, with one scale and one zero point for all tokens (``DynamicQuantizeLinear``).

onnxruntime multiplies by a second factor of shape (in, out) only. The products with Wᵀ therefore
read ``Transpose(W8)``, which is computed when it is needed. That costs a fortieth of the product
with 197 tokens; the product W8 xᵀ would need no transposed weight, but has no quick kernel.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from .graph import add_weight
from .stored import float_weights, insert_first, store

_VIEWS = ("Reshape", "Transpose", "Unsqueeze", "Squeeze")
_PLAIN_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0}


def quantise(values: np.ndarray, axis: int, *, largest: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit integers with a scale for each channel.

    Args:
        values: Weights of any shape.
        axis: That of the channels.
        largest: The integer that the largest absolute value of a channel becomes.

    Returns:
        Integers (int8) of the same shape, and scales (channels,) float32. Integers times scales
        are at most half a scale from the weights.
    """
    others = tuple(i for i in range(values.ndim) if i != axis)
    top = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(top > 0, top / largest, 1).astype(np.float32)
    integers = np.clip(np.rint(values / scale), -largest, largest).astype(np.int8)
    return integers, scale.reshape(-1)


def output_axis(weight: ir.Value) -> int | None:
    """The axis of a weight along which its output channels lie; None if it is not only a weight.

    Where uses differ, as those of W and Wᵀ do, it is the first, and so it is for a weight that is
    used in other shapes.
    """
    axes: set[int] = set()
    for node, index in weight.uses():
        if node.op_type in _VIEWS and index == 0:
            if output_axis(node.outputs[0]) is None:
                return None
            axes.add(0)
        elif node.op_type == "Conv" and index == 1:
            axes.add(0)
        elif node.op_type == "ConvTranspose" and index == 1:
            axes.add(1)
        elif node.op_type in ("Gemm", "MatMul") and index == 1 and len(weight.shape) == 2:
            axes.add(0 if _is_transposed(node) else 1)
        else:
            return None
    return min(axes, default=None)


def to_integer_products(model: ir.Model, *, largest: int = 127) -> tuple[str, ...]:
    """Lets products with weights compute in 8-bit integers.

    Args:
        model: It is changed in place. Weights with other uses than products of tokens, such as
            convolutions, stay as they are.
        largest: See :func:`quantise`.

    Returns:
        The names of the weights.
    """
    done = []
    for weight in list(float_weights(model.graph)):
        products = list(_products(weight))
        if products and None not in products:
            _compute_in_integers(model.graph, weight, dict(products), largest)
            done.append(weight.name)
    return tuple(done)


def _products(weight: ir.Value, transposed: bool = False) -> Iterator[tuple[ir.Node, bool] | None]:
    """Products of activations with a matrix (h, d), and whether it is with its transpose.

    None stands for each other use.
    """
    for node, index in weight.uses():
        if node.op_type == "Transpose" and len(node.inputs[0].shape) == 2:
            yield from _products(node.outputs[0], not transposed)
        elif _is_product(node, index):
            yield node, transposed != _is_transposed(node)
        else:
            yield None


def _is_transposed(product: ir.Node) -> bool:
    return product.op_type == "Gemm" and product.attributes.get_int("transB", 0) == 1


def _is_product(node: ir.Node, index: int) -> bool:
    """Whether a use of a weight is as the second factor, a matrix, of a product of activations."""
    if index != 1 or len(node.inputs[1].shape) != 2:
        return False
    if node.op_type != "Gemm":
        return node.op_type == "MatMul"
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    return all(given.get(name, plain) == plain for name, plain in _PLAIN_GEMM.items())


def _compute_in_integers(
    graph: ir.Graph, weight: ir.Value, transposed: dict[ir.Node, bool], largest: int
) -> None:
    """Replaces all uses of a weight, which are products with it or its transpose."""
    views = [node for node, _ in weight.uses() if node.op_type == "Transpose"]
    axis = 0 if any(transposed.values()) else 1
    values, scale = quantise(weight.const_value.numpy(), axis, largest=largest)
    scale = add_weight(graph, f"{weight.name}.scale", scale)
    in_order = turned = weight
    if all(transposed.values()):
        values = np.ascontiguousarray(values.T)
    elif any(transposed.values()):
        turned = insert_first(graph, [ir.node("Transpose", [weight], {"perm": [1, 0]})])
    store(graph, weight, values)
    for product, with_transpose in transposed.items():
        factor = turned if with_transpose else in_order
        scale_first = axis == 0 and not with_transpose
        _write_in_integers(graph, product, factor, scale, scale_first=scale_first)
    graph.remove(views, safe=True)


def _write_in_integers(
    graph: ir.Graph, product: ir.Node, weight: ir.Value, scale: ir.Value, *, scale_first: bool
) -> None:
    """Replaces a product by one with 8-bit integers (in, out), scaled before or after it."""
    new: list[ir.Node] = []

    def make(op: str, *values: ir.Value, outputs: int = 1, **attributes: int) -> list[ir.Value]:
        new.append(ir.node(op, values, attributes or None, num_outputs=outputs))
        return list(new[-1].outputs)

    x, _, *bias = product.inputs
    if scale_first:
        (x,) = make("Mul", x, scale)
    x8, step, zero = make("DynamicQuantizeLinear", x, outputs=3)
    (sums,) = make("MatMulInteger", x8, weight, zero)
    (y,) = make("Cast", sums, to=ir.DataType.FLOAT)
    if not scale_first:
        (step,) = make("Mul", step, scale)
    (y,) = make("Mul", y, step)
    if bias and bias[0] is not None:
        (y,) = make("Add", y, bias[0])
    out = product.outputs[0]
    y.shape, y.type = out.shape, out.type
    # The graph's outputs are asked for by their names.
    name, out.name = out.name, f"{out.name}.exact"
    y.name = name
    graph.insert_before(product, new)
    ir.convenience.replace_all_uses_with(out, y, replace_graph_outputs=True)
    graph.remove(product, safe=True)
