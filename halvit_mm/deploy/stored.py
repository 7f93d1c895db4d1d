"""Weights of a graph that are stored in another form than they are used in."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from .graph import LARGE, set_values


def float_weights(graph: ir.Graph) -> Iterator[ir.Value]:
    """The large 32-bit tensors of a graph that are no vectors, which are biases or norms."""
    for value in list(graph.initializers.values()):
        shape = value.const_value.shape.numpy()
        if (
            value.dtype == ir.DataType.FLOAT
            and value.const_value.size >= LARGE
            and value.const_value.size > max(shape)
            and not value.is_graph_output()
            and all(use.node.graph is graph for use in value.uses())
        ):
            yield value


def store(graph: ir.Graph, weight: ir.Value, values: np.ndarray) -> None:
    """Gives a weight other values, of another type and perhaps shape; it keeps its name.

    It becomes an input with a default, so that no runtime takes it for a constant and computes with
    it when it loads the graph.
    """
    set_values(weight, values)
    if not weight.is_graph_input():
        graph.inputs.append(weight)


def insert_first(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Value:
    """Inserts nodes that read weights alone, so that they run right before they are needed.

    onnxruntime walks a graph from its end, and of the inputs of a node it goes to the one made last
    in the file first. What is made of a weight right before its use would run before everything
    else, and all such tensors would fill the memory at once.

    Returns:
        The first output of the last node.
    """
    graph.insert_before(graph[0], nodes)
    return nodes[-1].outputs[0]


def redirect(uses: Iterable[tuple[ir.Node, int]], value: ir.Value) -> None:
    """Makes nodes read a value, which is like the one that they read now."""
    for node, index in uses:
        value.shape, value.type = node.inputs[index].shape, node.inputs[index].type
        node.replace_input_with(index, value)
