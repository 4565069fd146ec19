"""OpenVINO gives ONNX Runtime's answers for graphs that were exported for ONNX Runtime, the bundled one among them."""

import importlib.util

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sgn_serve.common.onnx_runtime import start_session
from sgn_serve.common.openvino_runtime import compile_model, written_for_openvino
from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from sgn_serve.settings import BUNDLED_MODEL

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: pip install -e '.[openvino]'"
)

VALUES = np.array([[-1, -0.0, 0, 1e-20, 1e-3, 0.5, 1, 3]], np.float32)


def model_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", VALUES.size]) for name in ("x", "g")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", VALUES.size])]
    graph = helper.make_graph(list(nodes), "masks", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def hard_sigmoid(output: str, alpha: float, beta: float) -> onnx.NodeProto:
    return helper.make_node("HardSigmoid", ["x"], [output], alpha=alpha, beta=beta)


def above(output: str, threshold: float) -> onnx.NodeProto:
    """Compare x with a number, as an export writes it for ONNX Runtime."""
    return hard_sigmoid(output, 2.0**22, -(2.0**22) * threshold)


MODELS = {
    "a mask times a gradient": model_of(hard_sigmoid("m", 2.0**127, 0.0), helper.make_node("Mul", ["g", "m"], ["y"])),
    "a gradient times a mask": model_of(hard_sigmoid("m", 2.0**127, 0.0), helper.make_node("Mul", ["m", "g"], ["y"])),
    "a mask times itself": model_of(hard_sigmoid("m", 2.0**127, 0.0), helper.make_node("Mul", ["m", "m"], ["y"])),
    "a mask that is added": model_of(hard_sigmoid("m", 2.0**127, 0.0), helper.make_node("Add", ["m", "g"], ["y"])),
    "a gentle slope without an offset": model_of(
        hard_sigmoid("m", 0.25, 0.0), helper.make_node("Mul", ["m", "g"], ["y"])
    ),
    "an ordinary hard sigmoid": model_of(hard_sigmoid("m", 0.2, 0.5), helper.make_node("Mul", ["m", "g"], ["y"])),
    "a steep slope with an offset": model_of(above("m", -0.5), helper.make_node("Mul", ["m", "g"], ["y"])),
    "a steep slope downwards": model_of(
        hard_sigmoid("m", -(2.0**22), 2.0**21), helper.make_node("Mul", ["m", "g"], ["y"])
    ),
    "a sum of masks": model_of(above("m", -0.5), above("n", 0.7), helper.make_node("Add", ["n", "m"], ["y"])),
    "a sum of masks downwards": model_of(
        hard_sigmoid("m", -(2.0**22), 2.0**21),
        hard_sigmoid("n", -(2.0**22), -(2.0**21)),
        helper.make_node("Add", ["n", "m"], ["y"]),
    ),
    "a sum of masks of both directions": model_of(
        above("m", -0.5), hard_sigmoid("n", -(2.0**22), 2.0**21), helper.make_node("Add", ["n", "m"], ["y"])
    ),
}


def inputs() -> dict[str, NDArray[np.float32]]:
    return {"x": VALUES, "g": np.linspace(-2, 2, VALUES.size, dtype=np.float32)[None]}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_masks_are_the_same_once_rewritten(model: onnx.ModelProto) -> None:
    written = written_for_openvino(model, False)
    onnx.checker.check_model(written)
    (expected,) = start_session(model.SerializeToString()).run(None, inputs())
    (found,) = start_session(written.SerializeToString()).run(None, inputs())
    np.testing.assert_allclose(found, expected, atol=1e-25)


@needs_openvino
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_openvino_computes_masks_as_onnx_runtime_does(model: onnx.ModelProto) -> None:
    (expected,) = start_session(model.SerializeToString()).run(None, inputs())
    compiled = compile_model(model, {"INFERENCE_PRECISION_HINT": "f32"})
    known = {port.any_name: inputs()[port.any_name] for port in compiled.inputs}  # g may be left out as unused
    np.testing.assert_allclose(compiled(known)["y"], expected, atol=1e-6)


GRADIENTS = {
    # kernel, stride, padding, more at the end, dilation: rows and columns each
    "3x3, stride 2": ((3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    "3x3, stride 2, odd sizes": ((3, 3), (2, 2), (1, 1), (0, 0), (1, 1)),
    "5x5, stride 2": ((5, 5), (2, 2), (2, 2), (1, 0), (1, 1)),
    "no padding": ((3, 3), (2, 2), (0, 0), (0, 1), (1, 1)),
    "gaps longer than the kernel": ((2, 2), (3, 3), (1, 0), (0, 0), (1, 1)),
    "one stride a direction": ((3, 5), (2, 1), (1, 2), (1, 0), (1, 1)),
    "dilated": ((3, 3), (2, 2), (2, 2), (1, 1), (2, 2)),
    "a patch, of which nothing overlaps": ((4, 4), (4, 4), (0, 0), (0, 0), (1, 1)),
}


def gradient_model(case: str, channels: int = 6, per_channel: int = 1) -> onnx.ModelProto:
    """A strided depthwise convolution's gradient: x (n, 6, 5, 4) to y."""
    kernel, stride, padding, more, dilation = GRADIENTS[case]
    weight = np.random.default_rng(0).normal(size=(channels, per_channel, *kernel)).astype(np.float32)
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w"],
        ["y"],
        group=channels,
        strides=stride,
        pads=[*padding, *padding],
        output_padding=more,
        dilations=dilation,
    )
    graph = helper.make_graph(
        [node],
        "gradient",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 5, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, None, None])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("case", GRADIENTS)
def test_the_gradient_of_a_strided_depthwise_convolution_is_the_same_with_gaps(case: str) -> None:
    model, pictures = gradient_model(case), np.random.default_rng(1).normal(size=(3, 6, 5, 4)).astype(np.float32)
    assert written_for_openvino(model, False) == model
    written = written_for_openvino(model, True)
    onnx.checker.check_model(written)
    assert "ConvTranspose" not in {node.op_type for node in written.graph.node}
    (expected,) = start_session(model.SerializeToString()).run(None, {"x": pictures})
    (found,) = start_session(written.SerializeToString()).run(None, {"x": pictures})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if importlib.util.find_spec("openvino") is not None:
        compiled = compile_model(model, {"INFERENCE_PRECISION_HINT": "bf16"})
        np.testing.assert_allclose(compiled({"x": pictures})["y"], expected, atol=0.1)


@pytest.mark.parametrize("size", ["unknown sizes", "two channels for each"])
def test_other_transposed_convolutions_stay(size: str) -> None:
    model = gradient_model("3x3, stride 2", per_channel=2 if size != "unknown sizes" else 1)
    if size == "unknown sizes":
        model.graph.input[0].type.tensor_type.shape.dim[2].Clear()
    assert [node.op_type for node in written_for_openvino(model, True).graph.node] == ["ConvTranspose"]


@needs_openvino
def test_the_bundled_graph_has_the_same_self_gradient_on_both_engines() -> None:
    graph = read_graph(BUNDLED_MODEL)
    images = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    here, there = (Classifier(graph, threads=1, engine=engine) for engine in ("onnxruntime", "openvino"))
    expected, found = (one.logits(images, True, with_gradient=True) for one in (here, there))
    assert expected.gradient is not None
    assert found.gradient is not None
    assert expected.corrected is not None
    assert found.corrected is not None
    error = np.linalg.norm(found.gradient - expected.gradient) / np.linalg.norm(expected.gradient)
    assert error < 1e-3, "it was 4 while OpenVINO read the masks' offset as one half"
    np.testing.assert_allclose(found.corrected, expected.corrected, atol=1e-3)
