"""Store the gradient at the classifier, which is the same for every image, as a constant."""

from typing import Any

import torch
from torch import Tensor, fx

from export.rewrite.editing import Editor, aten, is_call, is_constant


def make_constant_gradients_constants(graph: fx.GraphModule) -> None:
    """Replace, in place, the gradients that do not depend on the image by constants.

    The soft loss is the sum of the logits, so its gradient with respect to them is all ones. With respect to the last
    feature map it is the column sums of the classifier's weight, divided among the pixels: one vector for all pictures.
    The classifier's backward pass then does not depend on the batch. A graph cut for the logits alone needs no
    classifier in the first pass.
    """
    editor = Editor(graph)
    constants: dict[fx.Node, Tensor] = {}  # node -> tensor that broadcasts to the node's shape
    for node in list(graph.graph.nodes):
        value = _constant_value(node, constants, editor)
        if value is not None:
            constants[node] = value
            continue
        for source in set(node.all_input_nodes) & constants.keys():
            if _broadcasts(node, source):
                node.replace_input_with(source, editor.constant(constants[source], "head.gradient"))
            elif is_call(node, aten.scatter_add.default) and node.args[3] is source:  # the backward pass of max-pooling
                constant = editor.constant(constants[source], "head.gradient")
                batch = editor.call(node, aten.sym_size.int, node.args[2], 0)
                sizes = [batch, *source.meta["val"].shape[1:]]
                node.update_arg(3, editor.call(node, aten.expand.default, constant, sizes))
    editor.finish()


def _constant_value(node: Any, constants: dict[fx.Node, Tensor], editor: Editor) -> Tensor | None:
    """Return a tensor that broadcasts to what the node computes, or None where that depends on the image."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return None
    if node.target in (aten.full_like.default, aten.full.default) and isinstance(node.args[1], int | float):
        return torch.full((1,) * node.meta["val"].dim(), node.args[1], dtype=node.meta["val"].dtype)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source not in constants:
        return None
    value, shape = constants[source], source.meta["val"].shape
    if is_call(node, aten.expand.default):
        return value.reshape((1,) * (node.meta["val"].dim() - value.dim()) + tuple(value.shape))
    if is_call(node, aten.view.default) and _keeps_batch(shape, node.meta["val"].shape) and value.shape[0] == 1:
        return value.expand(1, *shape[1:]).reshape(1, *node.meta["val"].shape[1:])
    if is_call(node, aten.unsqueeze.default):
        return value.unsqueeze(node.args[1])
    if is_call(node, aten.mul.Scalar, aten.div.Scalar) or (
        is_call(node, aten.mul.Tensor, aten.div.Tensor) and isinstance(node.args[1], int | float)
    ):
        return node.target(value, node.args[1])
    if is_call(node, aten.mm.default, aten.linear.default) and is_constant(node.args[1]) and value.shape[0] == 1:
        row = value.expand(1, shape[1])
        return node.target(row, *(editor.value(argument) for argument in node.args[1:]))
    return None


def _keeps_batch(before: torch.Size, after: torch.Size) -> bool:
    """Tell whether a view rearranges only the known sizes, those of one image."""
    known = all(isinstance(size, int) for size in (*before[1:], *after[1:]))
    return known and isinstance(before[0], int) == isinstance(after[0], int) and before[0] == after[0]


def _broadcasts(node: fx.Node, source: fx.Node) -> bool:
    """Tell whether a smaller constant that broadcasts to `source` gives the node the same result."""
    if not is_call(node, aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor) or node.args[0] is node.args[1]:
        return False
    other = node.args[1] if node.args[0] is source else node.args[0]
    return isinstance(other, fx.Node) and tuple(other.meta["val"].shape) == tuple(node.meta["val"].shape)
