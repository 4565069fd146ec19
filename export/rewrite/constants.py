"""Constant folding: compute at export what does not depend on the image."""

from torch import Tensor, fx

from export.rewrite.editing import Editor, is_constant


def fold_constants(graph: fx.GraphModule) -> None:
    """Compute, in place, the operators on constants whose result is a vector or a number.

    Batch norm's factors are such results: square roots and divisions that every inference would repeat. Larger
    results, such as flipped weights, stay expressions of the stored weight, so that the file holds the weight once.
    """
    editor = Editor(graph)
    for node in graph.graph.nodes:
        if node.op != "call_function" or not node.all_input_nodes or not all(map(is_constant, node.all_input_nodes)):
            continue
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or max(value.shape, default=1) != value.numel():
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), editor.value)
        node.replace_all_uses_with(editor.constant(node.target(*args, **kwargs), node.name))
    editor.finish()


def store_weights(graph: fx.GraphModule) -> None:
    """Compute, in place, every operator on constants alone, flipped and scaled weights included.

    It serves formats whose loaders would repeat that work at every inference. The file grows by the copies.
    """
    editor = Editor(graph)
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.all_input_nodes and all(map(is_constant, node.all_input_nodes)):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), editor.value)
            node.replace_all_uses_with(editor.constant(node.target(*args, **kwargs), node.name))
    editor.finish()
