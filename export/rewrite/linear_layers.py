"""Put linear layers back together."""

import torch
from torch import fx

aten = torch.ops.aten


def keep_linear_layers(graph: fx.GraphModule) -> None:
    """Replace, in place, bias + x @ permute(weight) by linear(x, weight, bias).

    Capturing decomposes a linear layer. Its transposed weight would be stored in the file as a second copy, and as a
    third where the backward pass transposes it again.
    """
    for node in graph.graph.find_nodes(op="call_function", target=aten.permute.default):
        source = node.args[0]
        if _is_matrix_transpose(node) and _is_matrix_transpose(source):
            node.replace_all_uses_with(source.args[0])
    for target in (aten.addmm.default, aten.mm.default):
        for node in graph.graph.find_nodes(op="call_function", target=target):
            *bias, features, weight = node.args
            if _is_matrix_transpose(weight) and not node.kwargs:
                with graph.graph.inserting_before(node):
                    linear = graph.graph.call_function(aten.linear.default, (features, weight.args[0], *bias))
                linear.meta = node.meta
                node.replace_all_uses_with(linear)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _is_matrix_transpose(node: object) -> bool:
    return isinstance(node, fx.Node) and node.target == aten.permute.default and list(node.args[1]) == [1, 0]  # type: ignore[arg-type]
