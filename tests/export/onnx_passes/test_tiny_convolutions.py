"""Convolutions between very few channels as matrix products."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.onnx_passes.tiny_convolutions import write_tiny_convolutions_as_products
from tests.export.conftest import Exported


def block(channels: int = 3, bias: bool = False, **attributes: Any) -> onnx.ModelProto:
    """Two convolutions with tanh after each, and the sum with the input, as in the self-gradient block."""
    generator = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"
    for number in range(2):
        weight = generator.normal(size=(channels, channels, 1, 1)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{number}"))
        constants.append(numpy_helper.from_array(generator.normal(size=channels).astype(np.float32), f"b{number}"))
        inputs = [value, f"w{number}", *([f"b{number}"] if bias else [])]
        nodes.append(helper.make_node("Conv", inputs, [f"c{number}"], **attributes))
        nodes.append(helper.make_node("Tanh", [f"c{number}"], [f"t{number}"]))
        value = f"t{number}"
    nodes.append(helper.make_node("Add", ["x", value] if not attributes else [value, value], ["y"]))
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 6, 4])]
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", channels, None, None])]
    graph = helper.make_graph(nodes, "block", values, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_products_are_the_convolutions(channels: int, batch: int) -> None:
    model = block(channels)
    images = np.random.default_rng(1).normal(size=(batch, channels, 6, 4)).astype(np.float32)
    expected = run(model, images)
    write_tiny_convolutions_as_products(model)
    onnx.checker.check_model(model, full_check=True)
    # Pixels are put in a row once, and back into a picture once; two more reshapes are those of the weights.
    assert operators(model) == Counter(MatMul=2, Tanh=2, Reshape=4, Add=1)
    np.testing.assert_allclose(run(model, images), expected, rtol=1e-5, atol=1e-6)


def test_a_result_that_others_need_stays_a_picture() -> None:
    model = block()
    model.graph.output.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, ["batch", 3, 6, 4]))
    images = np.random.default_rng(1).normal(size=(2, 3, 6, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(["c0"], {"x": images})[0]
    write_tiny_convolutions_as_products(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["c0"], {"x": images})[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [block(5), block(bias=True), block(strides=[2, 2]), block(pads=[1, 1, 1, 1])],
    ids=["five channels", "bias", "stride", "padding"],
)
def test_other_convolutions_are_left_alone(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    write_tiny_convolutions_as_products(model)
    assert model.SerializeToString() == before


def test_the_exported_block_has_products(exported: Exported) -> None:
    assert operators(exported.model())["MatMul"] == 5
