"""Masks that ONNX Runtime need not reorder feature maps for, and what else its optimiser makes of the file."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.onnx_passes.blocked_layout import keep_masks_in_blocked_layout
from sgn_serve.inference.graph import read_graph
from tests.export.conftest import Exported, Printed

COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def mask_model(threshold: float, comparison: str = "Greater") -> onnx.ModelProto:
    nodes = [
        helper.make_node(comparison, ["x", "threshold"], ["above"]),
        helper.make_node("Cast", ["above"], ["mask"], to=TensorProto.FLOAT),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "mask")]
    constants = [numpy_helper.from_array(np.array(threshold, np.float32), "threshold")]
    graph = helper.make_graph(nodes, "mask", tensors[:1], tensors[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["mask"], {"x": values})[0]


def test_masks_are_the_same_for_every_size_of_feature() -> None:
    model = mask_model(0.0)
    values = np.array(
        [-np.inf, -1e38, -1, -1e-38, -0.0, 0, 1.2e-38, 1e-30, 1e-6, 0.5, 1, 1e6, 3e38, np.inf], np.float32
    )
    expected = run(model, values)
    keep_masks_in_blocked_layout(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["HardSigmoid"]
    assert not model.graph.initializer
    np.testing.assert_array_equal(run(model, values), expected)


@pytest.mark.parametrize("comparison", COMPARISONS)
@pytest.mark.parametrize("threshold", [-3.0, 3.0, 6.0, 1.0, 0.1, -0.7, 1e30, -1e-30])
def test_a_mask_steps_at_one_float_whatever_its_threshold(threshold: float, comparison: str) -> None:
    model = mask_model(threshold, comparison)
    at = np.float32(threshold)
    near = [at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))]
    others = np.random.default_rng(0).normal(scale=4, size=1000).astype(np.float32)
    values = np.concatenate([np.array([*near, 0.0, -0.0, 3e38, -3e38, np.inf, -np.inf], np.float32), others])
    expected = run(model, values)
    keep_masks_in_blocked_layout(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["HardSigmoid"]
    np.testing.assert_array_equal(run(model, values), expected)
    assert np.isnan(run(model, np.array([np.nan], np.float32))).all()


@pytest.mark.parametrize(
    ("threshold", "comparison"), [(0.0, "GreaterOrEqual"), (0.0, "LessOrEqual"), (1e-39, "Greater"), (np.inf, "Less")]
)
def test_a_mask_that_no_slope_gives_is_left_alone(threshold: float, comparison: str) -> None:
    model = mask_model(threshold, comparison)
    keep_masks_in_blocked_layout(model)
    assert [node.op_type for node in model.graph.node] == [comparison, "Cast"]


def optimised(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators that ONNX Runtime runs for a model, after its own optimisation."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_nothing_but_convolutions_and_masks_is_left_of_the_way_back(exported: Exported, tmp_path: Path) -> None:
    nodes = optimised(exported.model(), tmp_path)
    assert nodes["HardSigmoid"] == 7  # one a ReLU of wrn-10-1
    assert nodes["Greater"] == nodes["Cast"] == nodes["Transpose"] == nodes["Slice"] == nodes["Div"] == 0
    # The image's and, of two blocks, the stride-2 ones: 3x3 and shortcut.
    assert nodes["ConvTranspose"] == 1 + 2 * 2


def test_the_one_pass_part_is_what_a_graph_with_the_block_off_is(
    exported: Exported, exported_plain: Printed, tmp_path: Path
) -> None:
    part = optimised(read_graph(exported.graph).cut(["plain_logits"]), tmp_path)
    assert part == optimised(onnx.load(exported_plain.graph), tmp_path)
    assert set(part) <= {"Conv", "Sub", "ReorderOutput", "ReduceMean", "Gemm"}


@pytest.mark.parametrize("outputs", [["logits"], ["self_gradient"]])
def test_the_first_passs_head_goes_where_nobody_asks_for_it(exported: Exported, outputs: list[str]) -> None:
    classifiers = [node.op_type for node in read_graph(exported.graph).cut(outputs).graph.node].count("Gemm")
    assert classifiers == outputs.count("logits")
