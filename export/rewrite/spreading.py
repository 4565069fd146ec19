"""Remove the expansion of a value to every pixel where the next operator broadcasts anyway."""

from torch import Tensor, fx

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
        if is_call(node, aten.expand.default):
            if node.args[0].meta["val"].dim() == node.meta["val"].dim():
                small[node] = node.args[0]
            continue
        sources = [source for source in node.all_input_nodes if source in small]
        if not is_call(node, *ELEMENTWISE) or node.kwargs or len(node.args) != 2 or len(sources) != 1:
            continue
        (source,) = sources
        other = node.args[1] if node.args[0] is source else node.args[0]
        if isinstance(other, int | float):
            arguments = (small[source] if argument is source else argument for argument in node.args)
            small[node] = editor.call(node, node.target, *arguments)
        elif other is not source and _has_shape_of(other, node):
            node.replace_input_with(source, small[source])
    editor.finish()


def _has_shape_of(first: fx.Node, second: fx.Node) -> bool:
    """Return whether both are tensors of one shape. A size, such as the batch's, is none."""
    values = [node.meta["val"] for node in (first, second)]
    return all(isinstance(value, Tensor) for value in values) and tuple(values[0].shape) == tuple(values[1].shape)
