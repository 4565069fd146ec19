"""Wide convolutions as Winograd's products: the same answers, and only where they are faster."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.exporter import export_onnx
from export.onnx_passes.winograd import F2, F4, Tiling, write_wide_convolutions_by_winograd
from tests.export.networks import checkpoint_info, randomise
from training.checkpoint import build_model, save_checkpoint


def model(
    channels: int = 160,
    size: tuple[int, int] = (16, 16),
    bias: bool = True,
    outputs: int | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """Two convolutions of one weight, as both passes have them, the second one's input being the first one's output."""
    outputs = outputs or channels
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(outputs, channels, 3, 3)) * np.sqrt(1 / (9 * channels))
    constants = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    if bias:
        constants.append(numpy_helper.from_array(generator.normal(size=outputs).astype(np.float32), "b"))
    settings: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], **attributes}
    rest = ["b"] if bias else []
    nodes = [helper.make_node("Conv", ["x", "w", *rest], ["y"], **settings)]
    if outputs == channels:
        nodes.append(helper.make_node("Conv", ["y", "w", *rest], ["z"], **settings))
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, *size])]
    results = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["batch", outputs, None, None])]
    graph = helper.make_graph(nodes, "convolutions", values, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def run(graph: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


@pytest.mark.parametrize("tiling", [F2, F4], ids=["F(2,3)", "F(4,3)"])
def test_the_matrices_filter(tiling: Tiling) -> None:
    signal, kernel = np.random.default_rng(1).normal(size=tiling.span), np.array([1.0, -2.0, 3.0])
    found = tiling.outputs @ ((tiling.kernel @ kernel) * (tiling.inputs @ signal))
    np.testing.assert_allclose(found, np.correlate(signal, kernel), atol=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("channels", "size", "bias", "tile"),
    [(160, (16, 20), True, 4), (160, (16, 16), False, 4), (632, (8, 8), True, 2), (136, (18, 18), True, 2)],
)
def test_the_same_answers(channels: int, size: tuple[int, int], bias: bool, tile: int, batch: int) -> None:
    graph = model(channels, size, bias)
    images = np.random.default_rng(2).normal(size=(batch, channels, *size)).astype(np.float32)
    expected = run(graph, images)
    write_wide_convolutions_by_winograd(graph)
    onnx.checker.check_model(graph, full_check=True)
    assert any(node.name.startswith(f"w_winograd_{tile}") for node in graph.graph.node)
    found = run(graph, images)
    assert np.linalg.norm(found - expected) < 3e-5 * np.linalg.norm(expected)


def test_the_weight_is_stored_once_and_transformed_once() -> None:
    graph = model()
    before = graph.ByteSize()
    write_wide_convolutions_by_winograd(graph)
    assert graph.ByteSize() < before + 30_000
    assert operators(graph)["MatMul"] == 2 + 1  # the two convolutions', and the weight's


@pytest.mark.parametrize(
    "graph",
    [
        model(96, (32, 32)),
        model(160, (8, 8)),
        model(160, (17, 17)),
        model(320, (16, 16), strides=[2, 2]),
        model(320, (16, 16), outputs=64),
        model(320, (16, 16), pads=[1, 1, 0, 0]),
        model(320, (16, 16), dilations=[2, 2]),
    ],
    ids=["narrow", "small", "odd", "strided", "to few channels", "padded otherwise", "dilated"],
)
def test_others_are_left_alone(graph: onnx.ModelProto) -> None:
    before = list(graph.graph.node)
    write_wide_convolutions_by_winograd(graph)
    assert list(graph.graph.node) == before


def wide_backbone() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 128, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def test_a_wide_network_is_exported_with_them_and_found_right(tmp_path: Path) -> None:
    info = checkpoint_info(architecture="mine", image_size=(20, 20))
    checkpoint, target = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    save_checkpoint(checkpoint, randomise(build_model(info, wide_backbone())).state_dict(), info)
    assert export_onnx(checkpoint, target, backbone=wide_backbone()).passed
    names = [node.name for node in onnx.load(target).graph.node]
    # The first pass there, its way back with the flipped weight, and the second pass with the weight of the first.
    assert sum(name.endswith("_winograd_MatMul") for name in names) == 3
    assert sum(name.endswith("_winograd_4_products") for name in names) == 2
