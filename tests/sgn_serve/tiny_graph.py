"""Build a tiny graph with the inputs, outputs and metadata of an exported one. It maps colours to class names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sgn_serve.common.graph_format import INPUT, LOGITS, METADATA_KEY, PLAIN_LOGITS, SELF_GRADIENT, SHA256_KEY

CLASS_NAMES = ("red", "green", "blue")
SHA256 = "0123456789abcdef" * 4
SHIFT = np.array([0.0, 0.0, 0.25], np.float32)
"""The "block" adds this to each channel of the image: with it on, every picture turns a little bluer."""


def save_tiny_graph(
    path: Path,
    image_size: tuple[int, int] = (8, 8),
    block: bool = True,
    metadata: dict[str, str] | None = None,
    checkpoint: dict[str, Any] | None = None,
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> Path:
    """Write a graph whose logits are ten times the mean of each channel.

    Args:
        path: The .onnx file to write.
        image_size: (height, width) in pixels.
        block: Whether the graph has a block.
        metadata: Metadata instead of those that export writes.
        checkpoint: Fields that differ in the checkpoint's JSON.
        class_names: A name for each logit.
    """
    height, width = image_size
    batch = "batch"
    image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, 3, height, width])
    plain_logits = helper.make_tensor_value_info(PLAIN_LOGITS, TensorProto.FLOAT, [batch, 3])
    nodes = _pass(INPUT, PLAIN_LOGITS)
    outputs = [plain_logits]
    constants = [
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.array(10, np.float32), "gain"),
    ]
    if block:
        nodes += [
            helper.make_node("Mul", [INPUT, "zero"], ["zeros"]),
            helper.make_node("Add", ["zeros", "shift"], [SELF_GRADIENT]),
            helper.make_node("Add", [INPUT, SELF_GRADIENT], ["corrected"]),
            *_pass("corrected", LOGITS),
        ]
        constants += [
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(SHIFT.reshape(1, 3, 1, 1), "shift"),
        ]
        outputs = [
            helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [batch, 3]),
            plain_logits,
            helper.make_tensor_value_info(SELF_GRADIENT, TensorProto.FLOAT, [batch, 3, height, width]),
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
        {METADATA_KEY: json.dumps(description), SHA256_KEY: SHA256} if metadata is None else metadata,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _pass(image: str, logits: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceMean", [image, "axes"], [f"mean of {image}"], keepdims=0),
        helper.make_node("Mul", [f"mean of {image}", "gain"], [logits]),
    ]
