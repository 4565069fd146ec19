"""ReLU masks as OpenVINO applies them fastest."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.onnx_passes.blocked_layout import drop_unused

ZERO = "nothing"


def apply_masks_by_selection(model: onnx.ModelProto) -> None:
    """Writes the products Cast(condition) * gradient of a model as Where(condition, gradient, 0), in place.

    OpenVINO turns a condition into numbers by slow code, and selects by fast code. The same for every gradient but
    infinite ones, where the product is no number. Other products are left alone.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    types = {item.name: item.data_type for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Mul":
            continue
        for position in (0, 1):
            mask = producers.get(node.input[position])
            if mask is None or mask.op_type != "Cast" or not _is_condition(producers.get(mask.input[0])):
                continue
            zero = f"{ZERO}_{mask.attribute[0].i}"
            if zero not in types:
                dtype = helper.tensor_dtype_to_np_dtype(mask.attribute[0].i)
                model.graph.initializer.append(numpy_helper.from_array(np.zeros((), dtype), zero))
                types[zero] = mask.attribute[0].i
            values = [mask.input[0], node.input[1 - position], zero]
            node.CopyFrom(helper.make_node("Where", values, list(node.output), node.name))
            break
    drop_unused(model)


def _is_condition(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
