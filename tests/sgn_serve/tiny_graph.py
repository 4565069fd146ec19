"""A hand-made graph that keeps the export's contract, small enough to reason about: colours to class names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASS_NAMES = ("red", "green", "blue")
SHA256 = "0123456789abcdef" * 4
SHIFT = np.array([0.0, 0.0, 0.25], np.float32)
"""What its "block" adds to the image, per channel: with it on, every picture turns a little bluer."""


def save_tiny_graph(
    path: Path,
    image_size: tuple[int, int] = (8, 8),
    block: bool = True,
    metadata: dict[str, str] | None = None,
    checkpoint: dict[str, Any] | None = None,
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> Path:
    """Writes a network whose logits are ten times the mean of each channel.

    metadata:   instead of the contract's
    checkpoint: fields that differ in the checkpoint's JSON
    """
    height, width = image_size
    batch = "batch"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, height, width])
    plain_logits = helper.make_tensor_value_info("plain_logits", TensorProto.FLOAT, [batch, 3])
    nodes = _pass("image", "plain_logits")
    outputs = [plain_logits]
    constants = [
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.array(10, np.float32), "gain"),
    ]
    if block:
        nodes += [
            helper.make_node("Mul", ["image", "zero"], ["zeros"]),
            helper.make_node("Add", ["zeros", "shift"], ["self_gradient"]),
            helper.make_node("Add", ["image", "self_gradient"], ["corrected"]),
            *_pass("corrected", "logits"),
        ]
        constants += [
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(SHIFT.reshape(1, 3, 1, 1), "shift"),
        ]
        outputs = [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3]),
            plain_logits,
            helper.make_tensor_value_info("self_gradient", TensorProto.FLOAT, [batch, 3, height, width]),
        ]
    graph = helper.make_graph(nodes, "tiny", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    description = {
        "format": "self-gradient-checkpoint/1",
        "class_names": list(class_names),
        "image_size": list(image_size),
        **(checkpoint or {}),
    }
    helper.set_model_props(
        model,
        {"self_gradient_network": json.dumps(description), "checkpoint_sha256": SHA256}
        if metadata is None
        else metadata,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _pass(image: str, logits: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceMean", [image, "axes"], [f"mean of {image}"], keepdims=0),
        helper.make_node("Mul", [f"mean of {image}", "gain"], [logits]),
    ]
