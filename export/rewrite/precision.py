"""Compute convolutions and the operators between them in a reduced precision."""

from typing import Any

import torch
from torch import Tensor, fx

from export.rewrite.editing import COMPARISONS, Editor, aten, is_call

FOLLOWING = (
    aten.relu.default,
    aten.relu_.default,  # timm's networks do it in place
    aten.add.Tensor,
    aten.add_.Tensor,
    aten.mul.Tensor,
    aten.mul_.Tensor,
    aten.sub.Tensor,
    aten.neg.default,
    aten.cat.default,
    aten._native_batch_norm_legit_no_training.default,
)
"""Operators that take the precision of the convolution before them; all others get float32 inputs."""


CHOOSING = (aten.mul.Tensor, aten.sub.Tensor)
"""Operators by which the gradient of max-pooling is given to the maxima. Like the pooling, they stay in float32."""


def lower_precision(graph: fx.GraphModule, dtype: torch.dtype) -> None:
    """Compute, in place, convolutions and the elementwise operators between them in float16 or bfloat16.

    The image, its gradient and the block stay in float32: the square of so small a gradient is zero in float16. The
    pooling and the classifier stay too, because they cost almost nothing, and so do the outputs. Weights are rounded
    last, after batch norm has been folded into them.

    Args:
        graph: A rewritten graph.
        dtype: torch.float16 or torch.bfloat16.
    """
    editor = Editor(graph)
    channels = next(iter(graph.graph.find_nodes(op="placeholder"))).meta["val"].shape[1]
    lowered: set[fx.Node] = set()
    choices: set[fx.Node] = set()
    casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}

    def cast(node: Any, to: torch.dtype, user: fx.Node) -> Any:
        """Return the node in another precision; None, numbers and other types stay as they are."""
        if not isinstance(node, fx.Node) or not _is_float(node) or (node in lowered) == (to == dtype):
            return node
        if editor.is_weight(node):
            return editor.expression(aten.to.dtype, node, to)
        if (node, to) not in casts:
            casts[node, to] = editor.call(node.next if node.op == "placeholder" else user, aten.to.dtype, node, to)
        return casts[node, to]

    def cast_arguments(node: fx.Node, arguments: Any, to: torch.dtype) -> Any:
        return fx.node.map_arg(arguments, lambda argument: cast(argument, to, node))

    def in_block(convolution: fx.Node) -> bool:
        outputs, inputs = convolution.args[1].meta["val"].shape[:2]  # type: ignore[union-attr]
        return bool(inputs == outputs == channels)

    def image_shaped(node: fx.Node) -> bool:
        value = node.meta["val"]
        return isinstance(value, Tensor) and value.dim() == 4 and bool(value.shape[1] == channels)

    for node in list(graph.graph.nodes):
        if node.op == "output":
            node.args = cast_arguments(node, node.args, torch.float32)
        if node.op != "call_function" or editor.is_weight(node):
            continue
        sources = [source for source in node.all_input_nodes if _is_float(source)]
        is_mask = is_call(node, aten._to_copy.default) and is_call(node.args[0], *COMPARISONS)
        if is_mask and node.args[0].args[0] in lowered:
            node.update_kwarg("dtype", dtype)
            lowered.add(node)
        elif is_call(node, *COMPARISONS):
            continue
        elif _is_choice(node) or (is_call(node, *CHOOSING) and any(source in choices for source in sources)):
            choices.add(node)
            node.args = cast_arguments(node, node.args, torch.float32)
        elif (is_call(node, aten.convolution.default) and not in_block(node)) or (
            is_call(node, *FOLLOWING) and not image_shaped(node) and any(source in lowered for source in sources)
        ):
            norm = is_call(node, aten._native_batch_norm_legit_no_training.default)  # its factors stay float32
            first = 1 if norm else len(node.args)
            node.args = (*cast_arguments(node, node.args[:first], dtype), *node.args[first:])
            lowered.add(node)
            lowered.update(user for user in node.users if norm)  # getitem
        elif node not in lowered:
            node.args = cast_arguments(node, node.args, torch.float32)
    _update_shapes(editor, lowered, dtype)
    editor.finish()


def _is_choice(node: fx.Node) -> bool:
    """Tell whether a node stands for the places of maxima as numbers; see export.capture.max_pooling."""
    return is_call(node, aten._to_copy.default) and is_call(node.args[0], aten.eq.Tensor)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, tuple) or (isinstance(value, Tensor) and value.is_floating_point())


def _update_shapes(editor: Editor, lowered: set[fx.Node], dtype: torch.dtype) -> None:
    for node in lowered:
        if isinstance(node.meta["val"], Tensor):
            node.meta["val"] = node.meta["val"].to(dtype)
