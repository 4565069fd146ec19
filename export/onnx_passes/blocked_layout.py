"""ReLU masks that leave feature maps in the layout that ONNX Runtime's CPU provider computes convolutions in."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STEEPNESS = 2.0**127
"""The mask's slope: a feature above zero is at least 2^-126, unless subnormal, so that its mask is exactly 1."""


def keep_masks_in_blocked_layout(model: onnx.ModelProto) -> None:
    """Writes the masks Cast(Greater(x, 0)) of a float32 model as HardSigmoid(x), in place: clip(2^127 x, 0, 1).

    ONNX Runtime keeps feature maps in blocks of channels between convolutions and puts them back in order for every
    operator that it has no blocked form of, such as a comparison; it has one of HardSigmoid. The same for every float
    but subnormal ones. Not for float16, where the slope is infinite and infinity times zero is no number.
    """
    initializers = {item.name: item for item in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type != "Cast" or node.attribute[0].i != TensorProto.FLOAT:
            continue
        comparison = producers.get(node.input[0])
        if comparison is None or comparison.op_type != "Greater" or comparison.input[1] not in initializers:
            continue
        threshold = initializers[comparison.input[1]]
        if threshold.data_type != TensorProto.FLOAT or np.any(numpy_helper.to_array(threshold) != 0):
            continue
        node.CopyFrom(
            helper.make_node(
                "HardSigmoid", [comparison.input[0]], list(node.output), node.name, alpha=STEEPNESS, beta=0.0
            )
        )
    drop_unused(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Removes, in place, nodes and initializers that no output needs."""
    needed = {output.name for output in model.graph.output}
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        if needed.isdisjoint(node.output):
            del model.graph.node[index]
        else:
            needed.update(node.input)
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in needed:
            del model.graph.initializer[index]
    for index in reversed(range(len(model.graph.value_info))):
        if model.graph.value_info[index].name not in needed:
            del model.graph.value_info[index]
