"""Put the block's fused kernel into a captured graph, and its body into the ONNX model made from that graph."""

from collections.abc import Callable
from typing import Any

import onnxscript
import torch
from onnx import ModelProto
from torch import fx

from export.errors import CaptureError
from export.kernels import onnx_functions, operators, reference
from training.networks.self_gradient import Correction, SelfGradientBlock

aten = torch.ops.aten

WEIGHTS_NAME = "block_weights"
"""Attribute of the graph that holds all of the block's weights; see reference.block_weights."""


def fuse_block(graph: fx.GraphModule, block: Correction | None) -> None:
    """Replace, in place, image + block(gradient) by the operator sgn::self_gradient_block.

    Args:
        graph: A graph as `capture` returns it: passes that rewrite the block's operators must come later.
        block: The captured network's block.

    Raises:
        CaptureError: There is no block, the kernel does not fit it, or it is not found in the graph.
        KernelsError: The kernels' library is there and cannot be loaded.
    """
    if not isinstance(block, SelfGradientBlock):
        raise CaptureError("this network has no self-gradient block to fuse: export it without --fused")
    weights = reference.block_weights(block)
    layers, channels, _ = weights.shape
    if channels > reference.MAX_CHANNELS or layers > reference.MAX_LAYERS:
        raise CaptureError(
            f"the fused kernel takes up to {reference.MAX_CHANNELS} channels and {reference.MAX_LAYERS} layers, "
            f"not {channels} and {layers}: export it without --fused"
        )
    operators.declare()
    image, gradient, corrected = _find_block(graph, block)
    graph.register_buffer(WEIGHTS_NAME, weights)
    rms = block.gradient_scaling == "rms"
    with graph.graph.inserting_before(corrected):
        stacked = graph.graph.get_attr(WEIGHTS_NAME)
        fused = graph.graph.call_function(
            torch.ops.sgn.self_gradient_block.default, (image, gradient, stacked, block.scale, rms)
        )
    fused.meta = corrected.meta
    corrected.replace_all_uses_with(fused)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the `custom_translation_table` with which torch.onnx.export writes the operator.

    Call add_bodies on the model that it returns.
    """
    domain = onnxscript.values.Opset(onnx_functions.DOMAIN, onnx_functions.DOMAIN_VERSION)
    node = onnxscript.values.Op(domain, "SelfGradientBlock", onnx_functions.self_gradient_block_schema())

    def self_gradient_block(image: Any, gradient: Any, weights: Any, scale: float, rms: bool) -> Any:
        return node(image, gradient, weights, scale=float(scale), rms=int(rms))

    operators.declare()
    return {torch.ops.sgn.self_gradient_block.default: self_gradient_block}


def add_bodies(model: ModelProto) -> None:
    """Add the body of standard operators for every SelfGradientBlock node of the model, in place."""
    layers = {item.name: item.dims[0] for item in model.graph.initializer if item.dims}
    for node in model.graph.node:
        if (node.domain, node.op_type) == (onnx_functions.DOMAIN, "SelfGradientBlock"):
            (rms,) = (attribute.i for attribute in node.attribute if attribute.name == "rms")
            onnx_functions.add_function(model, onnx_functions.self_gradient_block(layers[node.input[2]], bool(rms)))


def _find_block(graph: fx.GraphModule, block: SelfGradientBlock) -> tuple[fx.Node, fx.Node, fx.Node]:
    """Return the nodes of the image, of its gradient, and of image + block(gradient)."""
    kernels = [
        next(iter(graph.graph.find_nodes(op="get_attr", target=f"network.block.convolutions.{i}.weight")), None)
        for i in range(len(block.convolutions))
    ]
    node = source = None
    for kernel in kernels:
        convolution = _only_user(kernel, aten.convolution.default)
        if source is None:
            source = convolution.args[0]
        elif convolution.args[0] is not node:
            raise _not_found()
        node = _only_user(convolution, aten.tanh.default)
    scaled = _only_user(node, aten.mul.Tensor)
    corrected = _only_user(scaled, aten.add.Tensor)
    image = corrected.args[0]
    if block.gradient_scaling == "rms":
        if not isinstance(source, fx.Node) or source.target != aten.mul.Tensor:
            raise _not_found()
        source = source.args[0]
    if scaled.args[1] != block.scale or not isinstance(image, fx.Node) or not isinstance(source, fx.Node):
        raise _not_found()
    return image, source, corrected


def _only_user(node: fx.Node | None, target: Any) -> fx.Node:
    users = [] if node is None else list(node.users)
    if len(users) != 1 or users[0].target != target:
        raise _not_found()
    return users[0]


def _not_found() -> CaptureError:
    return CaptureError("the self-gradient block is not in the graph in the form it is defined in: do without --fused")
