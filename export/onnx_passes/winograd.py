"""Write wide 3x3 convolutions with fewer multiplications, for ONNX Runtime's CPU provider.

The pass is written by hand: neither ONNX Runtime's CPU provider nor the rewrite rules of onnxscript have a Winograd
convolution.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.onnx_passes.shapes import float_shapes, forget_removed_values

FEWEST_CHANNELS = 128
FEWEST_ELEMENTS = 40_000
"""Least channels, and least elements of one picture's feature map, of a convolution that is replaced.

Below either, moving tiles around costs more than the saved products. That was measured on ONNX Runtime 1.32 from 96 to
640 channels, 4x4 to 32x32 pixels, at batch 1 and 8.
"""

PADDING = [1, 1, 1, 1]


@dataclass(frozen=True)
class Tiling:
    """Minimal filtering F(m x m, 3 x 3): tiles of m x m outputs from (m + 2) x (m + 2) inputs.

    In one dimension outputs = A^T [(G kernel) * (B^T inputs)], and in two dimensions the same along rows and columns.
    Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016), section 4.

    Attributes:
        size: m.
        inputs: B^T, (m + 2, m + 2).
        kernel: G, (m + 2, 3).
        outputs: A^T, (m, m + 2).
    """

    size: int
    inputs: NDArray[np.float64]
    kernel: NDArray[np.float64]
    outputs: NDArray[np.float64]

    @property
    def span(self) -> int:
        """Number of inputs of a tile along one side."""
        return self.size + 2


F2 = Tiling(
    2,
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], float),
    np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]], float),
)
"""F(2 x 2, 3 x 3): 2.25 times fewer products than the convolution."""
F4 = Tiling(
    4,
    np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        float,
    ),
    np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
    np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], float),
)
"""F(4 x 4, 3 x 3): 4 times fewer products, with a rounding error about ten times as large: 1e-5 of the result."""
FEWEST_TILES = 16
"""Least tiles of one picture: with fewer, the matrix products are too narrow."""


def write_wide_convolutions_by_winograd(model: onnx.ModelProto) -> None:
    """Replace, in place, wide float32 3x3 convolutions of stride 1 by the products of Winograd's minimal filtering.

    Each frequency of the tiles is one matrix product over all channels. Convolutions with constant kernels cut the
    tiles out before it and put them together after it. Weights stay stored as they are: a runtime transforms them when
    it loads the file, which takes 1.8 to 4 times their memory. Narrow, grouped, strided and dilated convolutions are
    left alone, and so are feature maps that tiles do not fill evenly.
    """
    shapes = float_shapes(model)
    nodes, written = list(model.graph.node), _Written(model)
    del model.graph.node[:]
    for node in nodes:
        tiling = _tiling(node, shapes)
        if tiling is None:
            model.graph.node.append(node)
        else:
            written.convolution(node, tiling, shapes)
    forget_removed_values(model)


def _tiling(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> Tiling | None:
    """Return the tiling that makes a node faster, or None."""
    if node.op_type != "Conv" or not {node.input[0], node.input[1]} <= shapes.keys():
        return None
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    plain = {"dilations": [1, 1], "group": 1, "pads": PADDING, "strides": [1, 1], "auto_pad": b"NOTSET"}
    if "pads" not in given or any(given.get(name, value) != value for name, value in plain.items()):
        return None
    outputs, inputs, *kernel = shapes[node.input[1]]
    *_, height, width = shapes[node.input[0]]
    if kernel != [3, 3] or min(outputs, inputs) < FEWEST_CHANNELS:
        return None
    if min(outputs, inputs) * height * width < FEWEST_ELEMENTS:
        return None
    for tiling in (F4, F2):
        size = tiling.size
        if height % size == width % size == 0 and (height // size) * (width // size) >= FEWEST_TILES:
            return tiling
    return None


class _Written:
    """Add nodes at the model's end, and every constant and transformed weight once."""

    def __init__(self, model: onnx.ModelProto):
        self._graph = model.graph
        self._constants = {item.name for item in model.graph.initializer}
        self._kernels: dict[tuple[str, int], str] = {}

    def convolution(self, node: onnx.NodeProto, tiling: Tiling, shapes: dict[str, tuple[int, ...]]) -> None:
        """Add nodes that compute the same as a Conv node."""
        outputs, inputs, *_ = shapes[node.input[1]]
        *_, height, width = shapes[node.input[0]]
        size, span, result = tiling.size, tiling.span, node.output[0]
        rows, columns, frequencies = height // size, width // size, span * span

        def add(operator: str, values: list[str], **attributes: Any) -> str:
            return self._add(operator, values, f"{result}_winograd_{operator}", **attributes)

        # (batch, C, H, W) -> (batch, frequency, C, tile), each channel separately.
        channels = add("Reshape", [node.input[0], self._shape(-1, 1, height, width)])
        tiles = add(
            "Conv",
            [channels, self._outer(tiling.inputs, f"winograd_inputs_{size}")],
            kernel_shape=[span, span],
            strides=[size, size],
            pads=PADDING,
        )
        tiles = add("Reshape", [tiles, self._shape(-1, inputs, frequencies, rows * columns)])
        tiles = add("Transpose", [tiles], perm=[0, 2, 1, 3])
        products = add("MatMul", [self._kernel(node.input[1], tiling, outputs, inputs), tiles])
        # (batch, frequency, K, tile) -> (batch, K, H, W).
        products = add("Transpose", [products], perm=[0, 2, 1, 3])
        products = add("Reshape", [products, self._shape(-1, frequencies, rows, columns)])
        pixels = add(
            "ConvTranspose",
            [products, self._outer(tiling.outputs.T, f"winograd_outputs_{size}")],
            kernel_shape=[size, size],
            strides=[size, size],
        )
        bias = node.input[2] if len(node.input) > 2 else ""
        shape = self._shape(-1, outputs, height, width)
        if bias:
            pixels = add("Reshape", [pixels, shape])
            shifts = add("Reshape", [bias, self._shape(1, outputs, 1, 1)])
            self._graph.node.append(helper.make_node("Add", [pixels, shifts], [result], node.name))
        else:
            self._graph.node.append(helper.make_node("Reshape", [pixels, shape], [result], node.name))

    def _kernel(self, weight: str, tiling: Tiling, outputs: int, inputs: int) -> str:
        """Transform (K, C, 3, 3) into (frequency, K, C) by an expression of constants that a runtime computes once."""
        key = weight, tiling.size
        if key not in self._kernels:
            name = f"{weight}_winograd_{tiling.size}"
            taps = self._add("Reshape", [weight, self._shape(outputs * inputs, 9)], f"{name}_taps")
            taps = self._add("Transpose", [taps], f"{name}_taps_first", perm=[1, 0])
            by_tap = np.einsum("ai,bj->abij", tiling.kernel, tiling.kernel).reshape(-1, 9)
            factors = self._constant(by_tap.astype(np.float32), f"winograd_kernel_{tiling.size}")
            frequencies = self._add("MatMul", [factors, taps], f"{name}_products")
            shape = self._shape(tiling.span**2, outputs, inputs)
            self._kernels[key] = self._add("Reshape", [frequencies, shape], name)
        return self._kernels[key]

    def _outer(self, matrix: NDArray[np.float64], name: str) -> str:
        """Store the matrix along rows and columns as a convolution's kernel with one channel."""
        frequencies, taps = matrix.shape
        kernel = np.einsum("ai,bj->abij", matrix, matrix).reshape(frequencies**2, 1, taps, taps)
        return self._constant(kernel.astype(np.float32), name)

    def _shape(self, *sizes: int) -> str:
        return self._constant(
            np.array(sizes), "winograd_shape_" + "_".join("n" if size == -1 else str(size) for size in sizes)
        )

    def _constant(self, value: NDArray[np.generic], name: str) -> str:
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _add(self, operator: str, values: list[str], result: str, **attributes: Any) -> str:
        taken = {output for node in self._graph.node for output in node.output}
        unique, number = result, 1
        while unique in taken:
            unique, number = f"{result}_{number}", number + 1
        self._graph.node.append(helper.make_node(operator, values, [unique], unique, **attributes))
        return unique
