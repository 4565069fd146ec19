"""Write activations that change their input in place as ones that do not."""

import operator

from torch import fx

from export.rewrite.editing import Editor, aten, is_call

FRESH = (
    aten.convolution.default,
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.cat.default,
    aten._native_batch_norm_legit_no_training.default,
)
"""Operators whose results share no memory with anything else."""

READING = (
    aten.clone.default,
    aten.hardtanh.default,
    aten.clamp.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
)
"""Operators that read a value and return another."""


def write_activations_out_of_place(graph: fx.GraphModule) -> None:
    """Replace, in place, copy_(x, activation(x)) by activation(x), and copies of x from before by x itself.

    Capturing leaves that of ReLU6(inplace=True) and the like: a copy of x for the way back, and one over x. Other
    writes are left alone, and so is x if another operator might share its memory.
    """
    editor = Editor(graph)
    for copy in graph.graph.find_nodes(op="call_function", target=aten.copy_.default):
        features, result = copy.args[:2]
        if not is_call(result, *READING) or result.args[0] is not features or not _is_fresh(features):
            continue
        if not all(user is copy or is_call(user, *READING) for user in features.users):
            continue
        if not _comes_last(features, copy):
            continue
        copy.replace_all_uses_with(result)
        graph.graph.erase_node(copy)
        for user in list(features.users):
            if is_call(user, aten.clone.default):
                user.replace_all_uses_with(features)
    editor.finish()


def _is_fresh(node: fx.Node) -> bool:
    return is_call(node.args[0] if is_call(node, operator.getitem) else node, *FRESH)


def _comes_last(features: fx.Node, copy: fx.Node) -> bool:
    """Tell whether all other users read the value before it is overwritten."""
    node, before = features, {features}
    while node is not copy:
        node = node.next
        before.add(node)
    return set(features.users) <= before
