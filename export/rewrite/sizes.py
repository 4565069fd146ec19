"""Write sizes that depend on the batch in a form that TorchScript's tracing does not freeze."""

import torch
from torch import fx

from export.rewrite.editing import aten

METHODS = {
    aten.view.default: "view",
    aten.reshape.default: "reshape",
    aten._unsafe_view.default: "reshape",
    aten.expand.default: "expand",
}


def ask_sizes_as_methods(graph: fx.GraphModule) -> None:
    """Write, in place, sizes and the operators that take them as the Python calls that torch.jit.trace follows.

    Tracing follows image.size(0) and its way into view, expand and torch.full. For aten's own operators it records the
    number that it saw. Apply this pass last, for tracing alone: the other passes look for aten's operators.
    """
    for node in graph.graph.find_nodes(op="call_function", target=aten.sym_size.int):
        _replace(graph, node, "size")
    for target, method in METHODS.items():
        for node in graph.graph.find_nodes(op="call_function", target=target):
            if _holds_a_size(node.args[1]):
                _replace(graph, node, method)
    for node in graph.graph.find_nodes(op="call_function", target=aten.full.default):
        if _holds_a_size(node.args[0]):
            node.target = torch.full
    graph.graph.lint()
    graph.recompile()


def _holds_a_size(sizes: object) -> bool:
    return isinstance(sizes, list | tuple) and any(isinstance(size, fx.Node) for size in sizes)


def _replace(graph: fx.GraphModule, node: fx.Node, method: str) -> None:
    with graph.graph.inserting_before(node):
        call = graph.graph.call_method(method, node.args)
    call.meta = node.meta
    node.replace_all_uses_with(call)
    graph.graph.erase_node(node)
