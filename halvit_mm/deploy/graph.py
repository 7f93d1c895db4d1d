"""Graphs that hold each shared weight once, in the file and in memory.

An exporter writes Wᵀ as an operator, ``Transpose(W)``, so the file holds W once. But whatever in a
graph depends on constants alone, onnxruntime computes when it loads it, and keeps: Wᵀ beside W. It
also lays out each constant anew for every product that reads it, and these copies replace the
original only where there is a single one. A model with half of the weights then takes more memory
than its dense twin. So the graphs here are written such that there is nothing to compute:

* A product with Wᵀ is ``Gemm`` with ``transB``, which reads W itself.
* Rows of a weight that are used apart, W_q and W_kv, are weights of their own.
* A weight that is used more than once is an input with a default, as ONNX calls initialisers that
  are listed among the graph's inputs. Callers need not give it, and ``InferenceSession.get_inputs``
  does not even show it, but no runtime may take it for a constant. Operators that are left on it,
  such as the ``Transpose`` for the 1×1 convolutions of a ResNet stage, are run when they are
  needed, and their result goes away again.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

#: Elements from which on a copy of a weight matters.
LARGE = 1024


def keep_weights_single(model: ir.Model) -> tuple[str, ...]:
    """Rewrites a graph so that runtimes keep each shared weight once.

    Args:
        model: It is changed in place; what it computes stays the same.

    Returns:
        The names of the weights that are used more than once.
    """
    graph = model.graph
    _merge_equal(graph)
    for weight in _weights(graph):
        _cut(graph, weight)
    for weight in _weights(graph):
        if len(_final_uses(weight)) > 1:
            for product in list(_products(weight)):
                _write_as_gemm(graph, product)
        else:
            _turn(graph, weight)
    _remove_unused(graph)
    for constant in _weights(graph):
        _narrow(graph, constant)
    shared = [w for w in _weights(graph) if len(w.shape) > 1 and len(_final_uses(w)) > 1]
    ClearMetadataAndDocStringPass()(model)  # where in the source each node comes from
    graph.inputs.extend(weight for weight in shared if not weight.is_graph_input())
    return tuple(weight.name for weight in shared)


def shared_weights(model: ir.Model) -> tuple[str, ...]:
    """The names of the weights that :func:`keep_weights_single` found to be shared."""
    return tuple(v.name for v in model.graph.inputs if v.is_initializer())


def _weights(graph: ir.Graph) -> list[ir.Value]:
    return [v for v in graph.initializers.values() if v.const_value.size >= LARGE]


def _merge_equal(graph: ir.Graph) -> None:
    """Makes one of constants that are the same, as tables of each layer are.

    Done here, as onnx_ir's own pass does not read tensors that are transposed in memory.
    """
    first: dict[tuple, ir.Value] = {}
    for value in list(graph.initializers.values()):
        if value.is_graph_output() or value.is_graph_input():
            continue
        array = value.const_value.numpy()
        digest = hashlib.sha256(np.ascontiguousarray(array)).digest()
        same = first.setdefault((value.dtype, array.shape, digest), value)
        if same is not value:
            value.replace_all_uses_with(same)
            del graph.initializers[value.name]


def _cut(graph: ir.Graph, weight: ir.Value) -> None:
    """Makes weights of the slices of a weight of which nothing else is used."""
    slices = [node for node, _ in weight.uses()]
    pieces = [_as_slice(node) for node in slices]
    if None in pieces or weight.is_graph_output():
        return
    values = weight.const_value.numpy()
    made: dict[tuple[int, int, int], ir.Value] = {}
    for node, (axis, start, end) in zip(slices, pieces, strict=True):
        axis, (start, end, _) = axis % values.ndim, slice(start, end).indices(values.shape[axis])
        if (axis, start, end) not in made:
            piece = np.ascontiguousarray(values.take(range(start, end), axis))
            made[axis, start, end] = add_weight(graph, f"{weight.name}.{start}_{end}", piece)
        node.outputs[0].replace_all_uses_with(made[axis, start, end])


def _narrow(graph: ir.Graph, constant: ir.Value) -> None:
    """Stores a table of indices, made for one size of images, in as few bytes as will do."""
    if constant.dtype != ir.DataType.INT64 or constant.is_graph_output():
        return
    values = constant.const_value.numpy()
    kind = np.min_scalar_type(
        values.max() if values.min() >= 0 else min(values.min(), -values.max())
    )
    if kind.itemsize == values.itemsize:
        return
    narrow = add_weight(graph, f"{constant.name}.{kind.name}", values.astype(kind))
    cast = ir.node("Cast", [narrow], {"to": ir.DataType.INT64})
    wide = cast.outputs[0]
    wide.shape, wide.dtype = constant.shape, constant.dtype
    constant.replace_all_uses_with(wide)
    graph.insert_before(graph[0], cast)
    del graph.initializers[constant.name]


def _turn(graph: ir.Graph, weight: ir.Value) -> None:
    """Stores a weight of one use, that of its transpose, as its transpose.

    onnxruntime would do so when it loads the file, and the memory of the original is not always
    returned to the system.
    """
    uses = weight.uses()
    if len(uses) != 1 or uses[0][0].op_type != "Transpose" or len(weight.shape) != 2:
        return
    (node, _), name = uses[0], weight.name
    turned = np.ascontiguousarray(weight.const_value.numpy().T)
    del graph.initializers[name]
    weight.name = f"{name}.original"
    node.outputs[0].replace_all_uses_with(add_weight(graph, name, turned))
    graph.remove(node, safe=True)


def _as_slice(node: ir.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of a slice along one axis in steps of 1."""
    if node.op_type != "Slice":
        return None
    numbers = [_constant(value) for value in node.inputs[1:] if value is not None]
    if len(numbers) < 3 or any(n is None or n.size != 1 for n in numbers):
        return None
    start, end, axis, *step = (int(n.item()) for n in numbers)
    return None if step not in ([], [1]) else (axis, start, end)


def _final_uses(weight: ir.Value) -> list[tuple[ir.Node, int]]:
    """The uses of a weight and of its transposes, which are uses of the weight."""
    uses = []
    for use in weight.uses():
        node, _ = use
        is_transpose = node.op_type == "Transpose"
        uses.extend(node.outputs[0].uses() if is_transpose else [use])
    return uses


def _products(weight: ir.Value) -> Iterator[tuple[ir.Node, ir.Value, bool]]:
    """Products of tokens with a matrix or its transpose: node, matrix, whether transposed."""
    if len(weight.shape) != 2:
        return
    for node, index in weight.uses():
        if node.op_type == "MatMul" and index == 1:
            yield node, weight, False
        elif node.op_type == "Transpose":
            for user, index in node.outputs[0].uses():
                if user.op_type == "MatMul" and index == 1:
                    yield user, weight, True


def _write_as_gemm(graph: ir.Graph, product: tuple[ir.Node, ir.Value, bool]) -> None:
    """Replaces ``MatMul(x, W or Wᵀ)``, and a bias added to it, by Gemm on rows of tokens."""
    node, weight, transposed = product
    x, out = node.inputs[0], node.outputs[0]
    rows, columns = weight.shape
    width_in, width_out = (columns, rows) if transposed else (rows, columns)
    inputs = [x, weight]
    replaced = [node]
    bias = _added_bias(out, width_out)
    if bias is not None:
        add, value = bias
        inputs.append(value)
        out = add.outputs[0]
        replaced.append(add)

    new: list[ir.Node] = []

    def make(op: str, *values: ir.Value, **attributes: int) -> ir.Value:
        new.append(ir.node(op, values, attributes or None))
        return new[-1].outputs[0]

    def integers(*numbers: int) -> ir.Value:
        return _integers(graph, numbers)

    is_matrix = x.shape is not None and len(x.shape) == 2
    if not is_matrix:
        inputs[0] = make("Reshape", x, integers(-1, width_in))
    y = make("Gemm", *inputs, **({"transB": 1} if transposed else {}))
    if not is_matrix:
        known = None if x.shape is None else [d if isinstance(d, int) else -1 for d in x.shape[:-1]]
        if known is not None and known.count(-1) <= 1:
            shape = integers(*known, width_out)
        else:
            leading = make("Slice", make("Shape", x), integers(0), integers(-1), integers(0))
            shape = make("Concat", leading, integers(width_out), axis=0)
        y = make("Reshape", y, shape)
    y.shape, y.dtype = out.shape, out.dtype
    graph.insert_before(replaced[-1], new)
    ir.convenience.replace_all_uses_with(out, y, replace_graph_outputs=True)
    for old in reversed(replaced):
        graph.remove(old, safe=True)


def _added_bias(product: ir.Value, width: int) -> tuple[ir.Node, ir.Value] | None:
    """The one node that uses a product, if it adds a vector (width) to it, and the vector."""
    uses = product.uses()
    if len(uses) != 1 or uses[0].node.op_type != "Add" or product.is_graph_output():
        return None
    add, index = uses[0]
    other = add.inputs[1 - index]
    if other.shape is None or list(other.shape) != [width]:
        return None
    return add, other


def _integers(graph: ir.Graph, numbers: Iterable[int]) -> ir.Value:
    numbers = tuple(numbers)
    name = "int64_" + "_".join(str(n).replace("-", "minus") for n in numbers)
    if name not in graph.initializers:
        add_weight(graph, name, np.array(numbers, np.int64))
    return graph.initializers[name]


def add_weight(graph: ir.Graph, name: str, values: np.ndarray) -> ir.Value:
    """Adds a constant to a graph."""
    value = ir.Value(name=name)
    set_values(value, values)
    graph.register_initializer(value)
    return value


def set_values(weight: ir.Value, values: np.ndarray) -> None:
    """Gives a constant other values, of any type and shape."""
    weight.const_value = ir.Tensor(values, name=weight.name)
    weight.shape = weight.const_value.shape
    weight.type = ir.TensorType(weight.const_value.dtype)


def _constant(value: ir.Value) -> np.ndarray | None:
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _remove_unused(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(out.uses() or out.is_graph_output() for out in node.outputs):
            graph.remove(node, safe=True)
    for value in list(graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[value.name]
