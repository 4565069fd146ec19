"""Fold the factors of channels, which batch norm leaves in the backward pass, into convolutions."""

from typing import Any

import torch
from torch import Tensor, fx

from export.rewrite.editing import Editor, aten, is_call, is_constant, is_only_used_by


def fold_channel_scales(graph: fx.GraphModule) -> None:
    """Fold, in place, multiplications by one constant for each channel into the weights of a convolution.

    The factor goes into the convolution that alone uses the product. Otherwise it goes into the convolutions that alone
    make the other factor, through ReLU masks and sums between them.
    Formula: (mask * convolution(g)) * scale = mask * scaled_convolution(g). Division counts as multiplication, and a
    number as the same factor for every channel. Where neither is possible the product is left alone.
    """
    editor = Editor(graph)
    # A factor that is gone may have stood between another one and its convolution.
    while sum(_fold(product, editor) for product in list(graph.graph.nodes)):
        pass
    editor.finish()


def _fold(product: fx.Node, editor: Editor) -> bool:
    """Fold a product's factor into convolutions, remove the product, and tell whether that was possible."""
    found = _channel_scale(product, editor)
    if found is None:
        return False
    features, scale = found
    users = list(product.users)
    if len(users) == 1 and _scales_inputs(users[0], product, editor):
        _scale_weight(editor, users[0], scale, axis=0 if users[0].args[6] else 1)
    elif _can_take(features, product, editor):
        _take(editor, features, scale)
    else:
        return False
    product.replace_all_uses_with(features)
    editor.graph.graph.erase_node(product)
    return True


def _channel_scale(node: fx.Node, editor: Editor) -> tuple[fx.Node, Tensor] | None:
    """Return the features (N, C, H, W) and the factor (C,) of features * constant or features / constant.

    The constant is a stored tensor or a number.
    """
    if not is_call(node, aten.mul.Tensor, aten.div.Tensor) or len(node.args) != 2:
        return None
    features, scale = node.args
    if node.target == aten.mul.Tensor and is_constant(features):
        features, scale = scale, features
    if not isinstance(features, fx.Node) or is_constant(features):
        return None
    shape = features.meta["val"].shape
    # Instance norm puts batch and channels into one dimension, whose length no export knows.
    if len(shape) != 4 or not isinstance(shape[1], int):
        return None
    if isinstance(scale, int | float):
        factor = scale if node.target == aten.mul.Tensor else 1 / scale
        return features, torch.full((shape[1],), float(factor))
    if not is_constant(scale):
        return None
    value = editor.value(scale)
    if value.dim() not in (3, 4) or value.numel() != shape[1] or value.shape[-3] != shape[1]:
        return None
    return features, (value if node.target == aten.mul.Tensor else 1 / value).flatten()


def _scales_inputs(convolution: Any, features: fx.Node, editor: Editor) -> bool:
    """Tell whether a factor on the features can go into the convolution's weight instead."""
    if not is_call(convolution, aten.convolution.default) or not editor.is_weight(convolution.args[1]):
        return False
    transposed, groups = convolution.args[6], convolution.args[8]
    return convolution.args[0] is features and (transposed is True or groups == 1)


def _can_take(node: Any, user: fx.Node, editor: Editor) -> bool:
    """Tell whether a factor on a node's result, which `user` alone may use, can be folded into the node's inputs."""
    if not isinstance(node, fx.Node):
        return False
    if is_constant(node):
        return True
    if not is_only_used_by(node, user):
        return False
    if is_call(node, aten.convolution.default):
        _, weight, bias, _, _, _, transposed, _, groups = node.args
        if node.meta["val"].shape[1] != user.meta["val"].shape[1] or bias is not None:
            return False
        return editor.is_weight(weight) and bool(transposed is False or groups == 1)
    if not is_call(node, aten.mul.Tensor, aten.add.Tensor) or node.kwargs or node.args[0] is node.args[1]:
        return False  # a factor on both sides of x * x would be squared
    return (any if node.target == aten.mul.Tensor else all)(_can_take(part, node, editor) for part in node.args)


def _take(editor: Editor, node: fx.Node, scale: Tensor) -> None:
    if node.target == aten.convolution.default:
        _scale_weight(editor, node, scale, axis=1 if node.args[6] else 0)
        return
    factors = node.args
    if node.target == aten.mul.Tensor:
        factors = (next(factor for factor in node.args if _can_take(factor, node, editor)),)
    for factor in factors:
        assert isinstance(factor, fx.Node)
        if is_constant(factor):
            scaled = editor.value(factor) * scale[:, None, None]
            node.replace_input_with(factor, editor.constant(scaled, f"{factor.target}.scaled"))
        else:
            _take(editor, factor, scale)


def _scale_weight(editor: Editor, convolution: fx.Node, scale: Tensor, axis: int) -> None:
    shape = [1, 1, 1, 1]
    shape[axis] = len(scale)
    weight = convolution.args[1]
    factor = editor.constant(scale.reshape(shape), "channel_scale")
    convolution.update_arg(1, editor.expression(aten.mul.Tensor, weight, factor))
