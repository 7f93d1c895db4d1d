"""Exported models with weights of 16 or 8 bits, each shared weight still stored once.

onnxruntime's CPU kernels compute in 32-bit floats, except for products of 8-bit integers. So there
are three ways to make a file smaller:

* ``fp16`` stores weights as 16-bit floats and turns each into 32-bit ones when it is needed.
  A graph whose activations are 16-bit floats, too, has no kernels on the CPU: onnxruntime would
  turn its weights into 32-bit ones for good when it loads it.
* ``int8-weights`` stores weights as 8-bit integers with a scale for each output channel, and turns
  each into 32-bit floats when it is needed.
* ``int8-dynamic`` does the same for convolutions; linear layers compute in integers, see
  :mod:`~halvit_mm.deploy.int8`.

Inputs, outputs and activations stay 32-bit floats, and so do norms, biases and other small tensors.
The smaller weights are inputs with a default, even those that are used once, as onnxruntime would
otherwise turn them into 32-bit floats when it loads the graph, and keep those.
"""

from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from ..errors import UserError
from .graph import add_weight
from .int8 import output_axis, quantise, to_integer_products
from .stored import float_weights, insert_first, redirect, store

Precision = Literal["fp32", "fp16", "int8-weights", "int8-dynamic"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def set_precision(model: ir.Model, precision: str, *, reduce_range: bool = False) -> None:
    """Makes the weights of a graph smaller.

    Args:
        model: After :func:`~halvit_mm.deploy.graph.keep_weights_single`; it is changed in place.
        precision: One of :data:`PRECISIONS`.
        reduce_range: See :func:`to_dynamic_int8`; has no effect otherwise.

    Raises:
        UserError: There is no such precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"there is no precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if precision == "fp16":
        to_float16(model)
    elif precision == "int8-weights":
        to_int8_weights(model)
    elif precision == "int8-dynamic":
        to_dynamic_int8(model, reduce_range=reduce_range)


def to_float16(model: ir.Model) -> tuple[str, ...]:
    """Stores weights as 16-bit floats.

    Args:
        model: After :func:`~halvit_mm.deploy.graph.keep_weights_single`; it is changed in place.

    Returns:
        The names of the weights, which keep their names.
    """
    done = []
    for weight in float_weights(model.graph):
        values = weight.const_value.numpy()
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue  # would be infinite; -inf itself stays what it is, but is no weight
        uses = list(weight.uses())
        cast = ir.node("Cast", [weight], {"to": ir.DataType.FLOAT})
        redirect(uses, insert_first(model.graph, [cast]))
        store(model.graph, weight, values.astype(np.float16))
        done.append(weight.name)
    return tuple(done)


def to_int8_weights(model: ir.Model) -> tuple[str, ...]:
    """Stores the weights of linear layers and convolutions as 8-bit integers.

    A weight w of an output channel becomes ``round(w / s)`` with ``s = max |w| / 127`` over the
    channel. Where W and its transpose are used, channels are those of W, its rows: one tensor and
    one vector of scales serve both.

    Args:
        model: After :func:`~halvit_mm.deploy.graph.keep_weights_single`; it is changed in place.

    Returns:
        The names of the weights, which keep their names; the scales are called ``NAME.scale``.
    """
    weights = [w for w in float_weights(model.graph) if output_axis(w) is not None]
    for weight in weights:
        _store_int8(model.graph, weight)
    return tuple(weight.name for weight in weights)


def to_dynamic_int8(model: ir.Model, *, reduce_range: bool = False) -> tuple[str, ...]:
    """Lets linear layers compute in 8-bit integers, and stores other weights as such.

    Args:
        model: After :func:`~halvit_mm.deploy.graph.keep_weights_single`; it is changed in place.
        reduce_range: Gives the weights of linear layers 7 bits, from -63 to 63. x86 processors
            without VNNI (before Intel's Ice Lake and AMD's Zen 4) add pairs of products in 16
            bits, which 8-bit weights can overflow.

    Returns:
        The names of the weights, which keep their names; the scales are called ``NAME.scale``.
    """
    weights = to_integer_products(model, largest=63 if reduce_range else 127)
    return weights + to_int8_weights(model)


def _store_int8(graph: ir.Graph, weight: ir.Value) -> None:
    axis = output_axis(weight)
    values, scale = quantise(weight.const_value.numpy(), axis)
    scale = add_weight(graph, f"{weight.name}.scale", scale)
    # onnxruntime multiplies whole rows by a scale much quicker than every element by its own.
    as_rows = values.ndim == 2 and axis == 1
    axis = 0 if as_rows else axis
    # A node for each use: onnxruntime would make them of one, and place them where they run first.
    for use in list(weight.uses()):
        nodes = [ir.node("DequantizeLinear", [weight, scale], {"axis": axis})]
        if as_rows:
            nodes.append(ir.node("Transpose", nodes[0].outputs, {"perm": [1, 0]}))
        redirect([use], insert_first(graph, nodes))
    store(graph, weight, np.ascontiguousarray(values.T) if as_rows else values)
