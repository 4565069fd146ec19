"""Compile a graph with OpenVINO: the service, and export's measure of what it would answer, use it.

export.formats.openvino compiles a written file itself and unchanged, as any other program would.

The module imports nothing of this repository, and OpenVINO only when a model is compiled.
"""

import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

STEEP = 2.0**20
"""Slope from which on clip(slope * x + offset, 0, 1) is a comparison of x with a number, written as arithmetic."""


_TELEMETRY = "openvino_telemetry"


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, and return it.

    With it, each import reports to Google Analytics without asking, and writes to the folder intel in the home folder.
    Ctrl-C just then left a thread that the end of the process waited for, for ever. Without that package OpenVINO
    takes a stub of its own.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    hidden = "openvino" not in sys.modules and _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]
    return openvino


def compile_model(model: ModelProto, settings: Mapping[str, object]) -> Any:
    """Return a model that is compiled for OpenVINO's CPU device.

    Args:
        model: An ONNX model, such as the one-pass part of a graph.
        settings: OpenVINO's, such as {"INFERENCE_PRECISION_HINT": "bf16"}.

    Raises:
        ImportError: OpenVINO is not installed.
        Exception: It cannot compile the model. Its exceptions share no base class.
    """
    core = import_openvino().Core()
    lowered = settings.get("INFERENCE_PRECISION_HINT") == "bf16"
    content = written_for_openvino(model, lowered).SerializeToString()
    return core.compile_model(core.read_model(io.BytesIO(content)), "CPU", dict(settings))


def written_for_openvino(model: ModelProto, lowered: bool) -> ModelProto:
    """Return a copy of a model without the operators for which OpenVINO has slow or wrong code. It computes the same.

    - An export for ONNX Runtime writes the masks of an activation as steep hard sigmoids, clip(2^127 x, 0, 1) for a
      ReLU. OpenVINO 2026.4 reads an offset of 0 as the default of 0.5. Every mask of a feature that is zero would be
      one half, and the self-gradient wrong. Comparisons that select are also faster there: both passes of the bundled
      network take 0.82 of the time of masks that are multiplied. The values are the same for every finite factor.
    - Other hard sigmoids run on its reference kernel. A product, a sum and a clip do not.
    - Strided depthwise transposed convolutions run on its reference kernel in bfloat16. A convolution of the input with
      gaps does not: for five such layers it took 0.06 to 0.35 of the time. In float32 it took 1.02 to 1.18.

    Args:
        model: An ONNX model.
        lowered: Whether it is computed in bfloat16.
    """
    written = ModelProto()
    written.CopyFrom(model)
    writer = _Writer(_shapes(model), lowered)
    nodes = [new for node in model.graph.node for new in writer.written(node)]
    del written.graph.node[:]
    written.graph.node.extend(nodes)
    written.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in writer.constants.items())
    return written


@dataclass(frozen=True)
class _Mask:
    """A comparison of features with a number.

    Attributes:
        features: The features' name.
        condition: The name of the comparison's result.
        greater: Whether it is true where they are greater, not less.
        threshold: The number.
    """

    features: str
    condition: str
    greater: bool
    threshold: float


@dataclass
class _Writer:
    """Write nodes anew, in the graph's order.

    Attributes:
        shapes: (N, C, H, W) by the name of a value, where they are known; a size that is not fixed is 0.
        lowered: Whether the model is computed in bfloat16.
        constants: Constants of the new nodes, by name.
        masks: The masks that were met, by name.
    """

    shapes: Mapping[str, tuple[int, ...]]
    lowered: bool
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    masks: dict[str, _Mask] = field(default_factory=dict)

    def written(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield what stands in a node's place."""
        masks = [self.masks[name] for name in node.input if name in self.masks]
        if node.op_type == "HardSigmoid":
            steep = abs(_attribute(node, "alpha", 0.2)) >= STEEP
            yield from self._comparison(node) if steep else self._clip(node)
        elif node.op_type == "Mul" and masks:
            yield self._selection(node)
        elif node.op_type == "Add" and len(masks) == 2 and _nested(*masks):
            yield from self._sum_of_masks(node, *sorted(masks, key=lambda mask: mask.threshold))
        elif self.lowered and node.op_type == "ConvTranspose" and (gaps := self._gaps(node)) is not None:
            yield from self._convolution_with_gaps(node, gaps)
        else:
            yield node

    def _number(self, value: float) -> str:
        return self._constant(f"openvino_{value!r}", np.array(value, np.float32))

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.setdefault(name, value)
        return name

    def _comparison(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield the comparison of a mask, and its numbers for whoever does not multiply by them."""
        (features,), (mask,) = node.input, node.output
        slope, offset = _attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5)
        threshold = float(np.float32(-offset / slope)) + 0.0  # turns -0.0 into 0.0
        found = _Mask(features, f"{mask}_condition", slope > 0, threshold)
        self.masks[mask] = found
        operator = "Greater" if found.greater else "Less"
        yield helper.make_node(operator, [features, self._number(threshold)], [found.condition])
        yield helper.make_node("Cast", [found.condition], [mask], node.name, to=TensorProto.FLOAT)

    def _clip(self, node: NodeProto) -> Iterator[NodeProto]:
        (features,), (result,) = node.input, node.output
        slope, offset = _attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5)
        scaled, moved = f"{result}_scaled", f"{result}_moved"
        yield helper.make_node("Mul", [features, self._number(slope)], [scaled])
        yield helper.make_node("Add", [scaled, self._number(offset)], [moved])
        yield helper.make_node("Clip", [moved, self._number(0.0), self._number(1.0)], [result], node.name)

    def _selection(self, node: NodeProto) -> NodeProto:
        mask = next(name for name in node.input if name in self.masks)
        (factor,) = [name for name in node.input if name != mask] or [mask]
        inputs = [self.masks[mask].condition, factor, self._number(0.0)]
        return helper.make_node("Where", inputs, list(node.output), node.name)

    def _sum_of_masks(self, node: NodeProto, lower: _Mask, higher: _Mask) -> Iterator[NodeProto]:
        (result,) = node.output
        inner, outer = (lower, higher) if lower.greater else (higher, lower)  # the outer one holds for fewer features
        at_least = f"{result}_at_least"
        yield helper.make_node("Where", [inner.condition, self._number(1.0), self._number(0.0)], [at_least])
        yield helper.make_node("Where", [outer.condition, self._number(2.0), at_least], [result], node.name)

    def _gaps(self, node: NodeProto) -> tuple[int, int] | None:
        """Return (height, width) of the gradient of a strided depthwise convolution with gaps; None for another."""
        shape, weight = self.shapes.get(node.input[0], ()), self.shapes.get(node.input[1], ())
        stride, dilation, pads = (_integers(node, name) for name in ("strides", "dilations", "pads"))
        if len(node.input) != 2 or len(shape) != 4 or len(weight) != 4 or not all(shape[1:]) or not all(weight):
            return None
        if not stride or not dilation or not pads or set(stride) == {1} or weight[:2] != (_group(node), 1):
            return None
        if shape[1] != weight[0] or any(pads[i] > dilation[i % 2] * (weight[2 + i % 2] - 1) for i in range(4)):
            return None
        return shape[2] * stride[0], shape[3] * stride[1]

    def _convolution_with_gaps(self, node: NodeProto, sizes: tuple[int, int]) -> Iterator[NodeProto]:
        """Yield a convolution of the input, in which the stride's gaps stand, with the flipped kernel."""
        (result,), weight = node.output, self.shapes[node.input[1]]
        stride, dilation, pads = (_integers(node, name) for name in ("strides", "dilations", "pads"))
        more = _integers(node, "output_padding") or [0, 0]
        mask = np.zeros((1, 1, *sizes), np.float32)
        mask[..., :: stride[0], :: stride[1]] = 1
        scales = self._constant(f"openvino_scales_{stride}", np.array([1, 1, *stride], np.float32))
        first = self._constant(f"openvino_first_{sizes}_{stride}", mask)
        repeated, spread, flipped = f"{result}_repeated", f"{result}_spread", f"{result}_flipped"
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        yield helper.make_node("Resize", [node.input[0], "", scales], [repeated], **nearest)
        yield helper.make_node("Mul", [repeated, first], [spread])
        backwards = [
            self._constant(f"openvino_{name}", np.array(value, np.int64))
            for name, value in (("last", [-1, -1]), ("before", [-(2**31), -(2**31)]), ("axes", [2, 3]))
        ]
        yield helper.make_node("Slice", [node.input[1], *backwards, backwards[0]], [flipped])
        # The stride's last gap stands behind the last element; where it is too much, less is padded.
        reach = [dilation[i] * (weight[2 + i] - 1) for i in range(2)]
        padding = [reach[i] - pads[i] for i in range(2)]
        behind = [reach[i] - pads[2 + i] - (stride[i] - 1 - more[i]) for i in range(2)]
        cut = any(size < 0 for size in behind)
        convolved = f"{result}_uncut" if cut else result
        yield helper.make_node(
            "Conv",
            [spread, flipped],
            [convolved],
            node.name,
            group=weight[0],
            dilations=dilation,
            pads=[*padding, *(max(0, size) for size in behind)],
        )
        if cut:
            ends = self._constant(f"{result}_ends", np.array([min(0, size) or 2**31 for size in behind], np.int64))
            starts = self._constant("openvino_starts", np.array([0, 0], np.int64))
            yield helper.make_node("Slice", [convolved, starts, ends, backwards[2]], [result])


def _nested(first: _Mask, second: _Mask) -> bool:
    """Tell whether two masks compare the same features in one direction, so that one holds where the other does."""
    return (first.features, first.greater) == (second.features, second.greater)


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a model states, by the value's name; a size that is not fixed is 0."""
    stated = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    shapes = {
        item.name: tuple(size.dim_value for size in item.type.tensor_type.shape.dim)
        for item in stated
        if item.type.tensor_type.HasField("shape")
    }
    return {**shapes, **{item.name: tuple(item.dims) for item in model.graph.initializer}}


def _attribute(node: NodeProto, name: str, default: float) -> float:
    return next((item.f for item in node.attribute if item.name == name), default)


def _integers(node: NodeProto, name: str) -> list[int]:
    return next((list(item.ints) for item in node.attribute if item.name == name), [])


def _group(node: NodeProto) -> int:
    return next((item.i for item in node.attribute if item.name == "group"), 1)
