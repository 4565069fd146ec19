"""Masks that select instead of multiplying."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.onnx_passes.selected_masks import apply_masks_by_selection


def masked(comparison: str) -> onnx.ModelProto:
    nodes = [
        helper.make_node(comparison, ["x", "threshold"], ["above"]),
        helper.make_node("Cast", ["above"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["mask", "gradient"], ["first"]),
        helper.make_node("Mul", ["first", "mask"], ["second"]),
        helper.make_node("Mul", ["second", "x"], ["y"]),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "gradient", "y")]
    constants = [numpy_helper.from_array(np.array(0.5, np.float32), "threshold")]
    graph = helper.make_graph(nodes, "masked", tensors[:2], tensors[2:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([-np.inf, -1, 0, 0.5, 0.6, 7], np.float32)
    return session.run(None, {"x": np.nan_to_num(x), "gradient": np.array([1, -2, 3, 4, -5, 0], np.float32)})[0]


def test_the_same_values_and_other_products_left_alone() -> None:
    model = masked("Greater")
    expected = run(model)
    apply_masks_by_selection(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Greater", "Constant", "Where", "Constant", "Where", "Mul"]
    np.testing.assert_array_equal(run(model), expected)


def test_a_number_that_is_no_mask_is_left_alone() -> None:
    model = masked("Greater")
    model.graph.node[0].CopyFrom(helper.make_node("Add", ["x", "threshold"], ["above"]))
    before = list(model.graph.node)
    apply_masks_by_selection(model)
    assert list(model.graph.node) == before


def hard_swish_slope(scale: float) -> onnx.ModelProto:
    """Half the slope of hard-swish as export/capture/decompositions.py writes it."""
    nodes = [
        helper.make_node("Greater", ["x", "lowest"], ["above"]),
        helper.make_node("Cast", ["above"], ["first"], to=TensorProto.FLOAT),
        helper.make_node("GreaterOrEqual", ["x", "highest"], ["beyond"]),
        helper.make_node("Cast", ["beyond"], ["second"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["first", "second"], ["steps"]),
        helper.make_node("Mul", ["steps", "scale"], ["scaled"]),
        helper.make_node("HardSigmoid", ["x"], ["sigmoid"], alpha=1 / 6, beta=0.5),
        helper.make_node("Add", ["sigmoid", "scaled"], ["y"]),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    values = {"lowest": -3, "highest": 3, "scale": scale}
    constants = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "slope", tensors[:1], tensors[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_the_slope_of_hard_swish_is_selected() -> None:
    model = hard_swish_slope(-0.25)
    numbers = np.random.default_rng(0).normal(scale=4, size=100).astype(np.float32)
    values = np.concatenate([numbers, np.array([-3, 3, -np.inf, np.inf, 0], np.float32)])

    def run() -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": values})[0]

    expected = run()
    apply_masks_by_selection(model)
    onnx.checker.check_model(model)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Where") == 2
    assert "Cast" not in operators
    np.testing.assert_allclose(run(), expected, rtol=1e-6, atol=1e-7)


def test_another_sum_of_masks_is_left_alone() -> None:
    model = hard_swish_slope(-0.5)
    apply_masks_by_selection(model)
    assert "Where" not in [node.op_type for node in model.graph.node]
