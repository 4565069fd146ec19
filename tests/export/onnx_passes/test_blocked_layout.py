"""Masks that ONNX Runtime need not reorder feature maps for, and what else its optimiser makes of the file."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.exporter import export_onnx
from export.onnx_passes.blocked_layout import keep_masks_in_blocked_layout
from sgn_serve.inference.graph import read_graph
from tests.export.conftest import Exported
from tests.export.networks import checkpoint_info, randomise
from training.checkpoint import build_model, save_checkpoint


def mask_model(threshold: float) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Greater", ["x", "threshold"], ["above"]),
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


def test_another_threshold_is_left_alone() -> None:
    model = mask_model(6.0)
    keep_masks_in_blocked_layout(model)
    assert [node.op_type for node in model.graph.node] == ["Greater", "Cast"]


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


def test_the_one_pass_part_is_what_a_graph_with_the_block_off_is(exported: Exported, tmp_path: Path) -> None:
    info = checkpoint_info(block=False)
    save_checkpoint(tmp_path / "plain.safetensors", randomise(build_model(info)).state_dict(), info)
    export_onnx(tmp_path / "plain.safetensors", tmp_path / "plain.onnx")
    part = optimised(read_graph(exported.graph).cut(["plain_logits"]), tmp_path)
    assert part == optimised(onnx.load(tmp_path / "plain.onnx"), tmp_path)
    assert set(part) <= {"Conv", "Sub", "ReorderOutput", "ReduceMean", "Gemm"}


@pytest.mark.parametrize("outputs", [["logits"], ["self_gradient"]])
def test_the_first_passs_head_goes_where_nobody_asks_for_it(exported: Exported, outputs: list[str]) -> None:
    classifiers = [node.op_type for node in read_graph(exported.graph).cut(outputs).graph.node].count("Gemm")
    assert classifiers == outputs.count("logits")
