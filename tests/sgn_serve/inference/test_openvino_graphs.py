"""OpenVINO gives ONNX Runtime's answers for graphs that were exported for ONNX Runtime, the bundled one among them."""

import importlib.util

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sgn_serve.inference.classifier import Classifier
from sgn_serve.inference.graph import read_graph
from sgn_serve.onnx_runtime import start_session
from sgn_serve.openvino_runtime import compile_model, with_masks_for_openvino
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


MODELS = {
    "a mask times a gradient": model_of(hard_sigmoid("m", 2.0**127, 0.0), helper.make_node("Mul", ["g", "m"], ["y"])),
    "a gradient times a mask": model_of(hard_sigmoid("m", 2.0**127, 0.0), helper.make_node("Mul", ["m", "g"], ["y"])),
    "a mask times itself": model_of(hard_sigmoid("m", 2.0**127, 0.0), helper.make_node("Mul", ["m", "m"], ["y"])),
    "a mask that is added": model_of(hard_sigmoid("m", 2.0**127, 0.0), helper.make_node("Add", ["m", "g"], ["y"])),
    "a gentle slope without an offset": model_of(
        hard_sigmoid("m", 0.25, 0.0), helper.make_node("Mul", ["m", "g"], ["y"])
    ),
    "an ordinary hard sigmoid": model_of(hard_sigmoid("m", 0.2, 0.5), helper.make_node("Mul", ["m", "g"], ["y"])),
}


def inputs() -> dict[str, NDArray[np.float32]]:
    return {"x": VALUES, "g": np.linspace(-2, 2, VALUES.size, dtype=np.float32)[None]}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_masks_are_the_same_once_rewritten(model: onnx.ModelProto) -> None:
    written = with_masks_for_openvino(model)
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
