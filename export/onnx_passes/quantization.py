"""The first pass in 8 bits: it only steers the correction, and the second pass answers in float32."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor

from export.capture.graph import INPUT_NAME, CaptureError

CALIBRATION_BATCH = 16


def quantize_first_pass(model: onnx.ModelProto, pictures: Tensor) -> onnx.ModelProto:
    """Convolutions of the first pass, there and back, as int8 products with ranges taken from real pictures.

    model:    an exported graph with a block, float32
    pictures: (N, C, H, W) in [0, 1], real ones
    returns:  the graph with the ranges written down as QuantizeLinear and DequantizeLinear, which every runtime reads
    raises CaptureError for a graph without a first pass that steers anything, or without convolutions in it

    Activations are 8-bit without sign, of gradients with their zero in the middle; weights are signed and scaled
    channel by channel. With signed gradients ONNX Runtime was no faster than in float32. The convolution of the image
    itself, whose rounding everything after it would inherit, stays in float32. `plain_logits` and `self_gradient` come
    from the first pass and are as coarse as it is.
    """
    if "self_gradient" not in {output.name for output in model.graph.output}:
        raise CaptureError("a network without a block has no first pass to quantize: leave --precision out")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        folded, quantized = Path(folder) / "folded.onnx", Path(folder) / "quantized.onnx"
        _fold_weights(model, folded)
        convolutions = _first_pass_convolutions(onnx.load(folded))
        if not convolutions:  # an empty list of nodes means all of them to the quantizer
            raise CaptureError(
                "the first pass has no convolution but the image's own, and nothing else is quantized: leave "
                "--precision out"
            )
        quantize_static(
            folded,
            quantized,
            _Pictures(pictures),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=list(convolutions),
            extra_options={
                "TensorQuantOverrides": {
                    values: [{"quant_type": QuantType.QUInt8, "symmetric": True}]
                    for values in convolutions.values()
                    if values is not None
                }
            },
        )
        result = onnx.load(quantized)
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    return result


class _Pictures(CalibrationDataReader):
    def __init__(self, pictures: Tensor):
        self._batches = iter(torch.split(pictures, CALIBRATION_BATCH))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT_NAME: batch.numpy()}


def _fold_weights(model: onnx.ModelProto, path: Path) -> None:
    """Writes the model with flipped and scaled weights worked out, and every node named: what the quantizer needs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(path)
    for index, node in enumerate(folded.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(folded, path)


def _first_pass_convolutions(model: onnx.ModelProto) -> dict[str, str | None]:
    """Names of the convolutions that the self-gradient is made by, but for the image's own.

    returns: by convolution, the name of its input where that has both signs; None for what a ReLU makes
    """
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    weights = {item.name: item.dims for item in model.graph.initializer}
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    needed: set[str] = {"self_gradient"}
    found: dict[str, str | None] = {}
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output):
            continue
        needed.update(node.input)
        if node.op_type != "Conv" or (node.input[1] in weights and weights[node.input[1]][1] == channels):
            continue
        found[node.name] = None if producers.get(node.input[0]) == "Relu" else node.input[0]
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantizer's advice on pre-processing, which has been done, off the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
