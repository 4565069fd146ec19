"""Compile a graph with OpenVINO: serving and export's checks take their compiled models from here.

The module imports nothing of this repository, and OpenVINO only when a model is compiled.
"""

import io
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper

STEEP = 2.0**100
"""From this slope on, clip(slope * x, 0, 1) is the mask x > 0 of every float that is not tiny."""
BELOW_ZERO = -(2.0**-100)
"""An offset that stands for none: OpenVINO takes an offset of 0 for one that is not given, which is 0.5."""
_ZERO = "openvino_zero"


def compile_model(model: ModelProto, settings: Mapping[str, object]) -> Any:
    """Return a model that is compiled for OpenVINO's CPU device.

    Args:
        model: An ONNX model, such as the one-pass part of a graph.
        settings: OpenVINO's, such as {"INFERENCE_PRECISION_HINT": "bf16"}.

    Raises:
        ImportError: OpenVINO is not installed.
        Exception: It cannot compile the model. Its exceptions share no base class.
    """
    import openvino

    core = openvino.Core()
    content = with_masks_for_openvino(model).SerializeToString()
    return core.compile_model(core.read_model(io.BytesIO(content)), "CPU", dict(settings))


def with_masks_for_openvino(model: ModelProto) -> ModelProto:
    """Return a copy of a model whose ReLU masks are selections.

    An export for ONNX Runtime writes the mask of a feature x as HardSigmoid(x) = clip(2^127 x, 0, 1). OpenVINO 2026.4
    reads an offset of 0 as the default of 0.5: every mask of a feature that is zero would be one half, and the
    self-gradient wrong. Selections are also faster there: both passes of the bundled network take 0.82 of the time of
    masks that are multiplied. The values are the same for every finite factor.
    """
    written = ModelProto()
    written.CopyFrom(model)
    masks: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += _rewritten(node, masks)
    del written.graph.node[:]
    written.graph.node.extend(nodes)
    if masks:
        written.graph.initializer.append(helper.make_tensor(_ZERO, onnx.TensorProto.FLOAT, (), [0.0]))
    return written


def _rewritten(node: NodeProto, masks: dict[str, str]) -> Iterator[NodeProto]:
    """Yield what stands in a node's place.

    Args:
        node: A node, in the graph's order.
        masks: The condition of each mask that was met, by the mask's name. A mask among these nodes is added.
    """
    if node.op_type == "HardSigmoid" and _offset(node) == 0:
        yield from _mask(node, masks) if _attribute(node, "alpha", 0.2) >= STEEP else [_with_offset(node)]
        return
    chosen = [name for name in node.input if name in masks]
    if node.op_type == "Mul" and chosen:
        mask = chosen[0]
        (factor,) = [name for name in node.input if name != mask] or [mask]
        yield helper.make_node("Where", [masks[mask], factor, _ZERO], list(node.output), node.name)
        return
    yield node


def _mask(node: NodeProto, masks: dict[str, str]) -> Iterator[NodeProto]:
    """Yield the comparison of a mask, and its numbers for whoever does not multiply by them."""
    (mask,) = node.output
    masks[mask] = f"{mask}_above_zero"
    yield helper.make_node("Greater", [node.input[0], _ZERO], [masks[mask]])
    yield helper.make_node("Cast", [masks[mask]], [mask], node.name, to=onnx.TensorProto.FLOAT)


def _with_offset(node: NodeProto) -> NodeProto:
    written = helper.make_node("HardSigmoid", list(node.input), list(node.output), node.name)
    written.attribute.extend(item for item in node.attribute if item.name != "beta")
    written.attribute.append(helper.make_attribute("beta", BELOW_ZERO))
    return written


def _offset(node: NodeProto) -> float:
    return _attribute(node, "beta", 0.5)


def _attribute(node: NodeProto, name: str, default: float) -> float:
    return next((item.f for item in node.attribute if item.name == name), default)
