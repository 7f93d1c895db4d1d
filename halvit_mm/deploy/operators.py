"""Which operators a graph of ``torch.export`` consists of, and breaking them down to fewer."""

import operator
from collections import Counter

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

aten = torch.ops.aten

#: What stops a program where a size is not as expected while tracing. ``torch.export`` takes for
#: granted that no tensor has a length of 0 or 1 that depends on values, and detectors may well find
#: no object.
_ASSERTIONS = (
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
)
#: What a node knows of where it comes from: source files of the machine that made the graph, which
#: are nobody's business and take as much of the file as the graph itself.
_ORIGINS = ("stack_trace", "from_node", "source_fn_stack", "torch_fn")


def to_core(program: ExportedProgram) -> ExportedProgram:
    """The same program in operators of PyTorch's core set, where operators can be broken down.

    Other runtimes have these: ExecuTorch's ``to_edge`` starts from such programs. Weights stay
    inputs of the graph; nothing that depends on them alone is computed.
    """
    return program.run_decompositions()


def strip(program: ExportedProgram) -> None:
    """Removes assertions on sizes, and what nodes know of the source code, in place.

    Among the assertions are the guards of newer releases of PyTorch, such as that a map has an odd
    number of rows: shapes of the trace were derived so, but all operators take others as well.
    """
    program._guards_code = []
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in reversed(list(module.graph.nodes)):
                if node.target in _ASSERTIONS:
                    module.graph.erase_node(node)
                for key in _ORIGINS:
                    node.meta.pop(key, None)
            module.graph.eliminate_dead_code()
            module.recompile()
    program.validate()


def outside_core(program: ExportedProgram) -> dict[str, int]:
    """Operators that are neither in PyTorch's core set nor arithmetic on sizes, with their number.

    Besides these, operators that change a tensor in place are listed: other runtimes refuse them.
    """
    counts = Counter(
        str(node.target)
        for module in program.graph_module.modules()
        if isinstance(module, GraphModule)
        for node in module.graph.nodes
        if node.op == "call_function" and not _is_core(node)
    )
    mutated = (
        program.graph_signature.buffers_to_mutate | program.graph_signature.user_inputs_to_mutate
    )
    return dict(counts.most_common()) | {f"assignment to {name}": 1 for name in mutated.values()}


def _is_core(node: Node) -> bool:
    if isinstance(node.target, torch._ops.OpOverload):
        return torch.Tag.core in node.target.tags and not node.target._schema.is_mutable
    if node.target is operator.getitem:
        return True
    # Python's arithmetic, and that of torch for sizes.
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int)
