"""Leave values that are the same at every pixel as they are where an operator spreads them anyway."""

from torch import fx

from export.rewrite.editing import Editor, aten, is_call

ELEMENTWISE = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.mul.Scalar,
    aten.div.Scalar,
)


def spread_values_late(graph: fx.GraphModule) -> None:
    """Replace, in place, a + expand(b) / pixels by a + b / pixels, and so for other elementwise operators.

    The gradient of a mean is such a value. A runtime would write it to memory for every pixel, and read it again.
    """
    editor = Editor(graph)
    small: dict[fx.Node, fx.Node] = {}  # node -> node of fewer elements that broadcasts to its shape
    for node in list(graph.graph.nodes):
        if is_call(node, aten.expand.default) and isinstance(node.args[0], fx.Node):
            if node.args[0].meta["val"].dim() == node.meta["val"].dim():
                small[node] = node.args[0]
        elif is_call(node, *ELEMENTWISE) and not node.kwargs:
            sources = [source for source in node.all_input_nodes if source in small]
            if len(sources) != 1:
                continue
            (source,) = sources
            others = [argument for argument in node.args if argument is not source]
            if all(isinstance(other, int | float) for other in others) and len(others) == 1:
                arguments = [small[source] if argument is source else argument for argument in node.args]
                small[node] = editor.call(node, node.target, *arguments)
            elif len(others) == 1 and isinstance(others[0], fx.Node):
                if tuple(others[0].meta["val"].shape) == tuple(node.meta["val"].shape):
                    node.replace_input_with(source, small[source])
    editor.finish()
