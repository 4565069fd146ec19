"""Write the block's convolutions, of three channels to three, as matrix products for ONNX Runtime's CPU provider.

The pass is written by hand: it follows a chain of operators, for which onnxscript's rules have no pattern.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.onnx_passes.shapes import float_shapes, forget_removed_values

MOST_CHANNELS = 4
"""Most channels of a convolution that is replaced."""


def write_tiny_convolutions_as_products(model: onnx.ModelProto) -> None:
    """Replace, in place, 1x1 convolutions between very few channels by the product of their matrix with all pixels.

    ONNX Runtime computes convolutions in blocks of 8 or 16 channels, so that 3 cost as much as 16. Five convolutions of
    3 channels to 3 with tanh after each took 2.2 to 2.6 times as long as the products. That was so at 32x32 pixels in
    batches of 1 to 32, and at 224x224 pixels. Pixels stay in a row through the tanh that follows.
    """
    shapes = float_shapes(model)
    nodes, written = list(model.graph.node), _Written(model)
    del model.graph.node[:]
    for node in nodes:
        if _is_tiny(node, shapes):
            written.product(node, shapes)
        elif node.op_type == "Tanh" and node.input[0] in written.rows:
            written.tanh(node, shapes)
        else:
            model.graph.node.append(node)
    written.remove_unused_pictures()
    forget_removed_values(model)


def _is_tiny(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Tell whether a node is a convolution that is cheaper as a product."""
    if node.op_type != "Conv" or len(node.input) != 2 or not {node.input[0], node.input[1]} <= shapes.keys():
        return False
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    plain = {"group": 1, "pads": [0, 0, 0, 0], "strides": [1, 1], "auto_pad": b"NOTSET"}
    if any(given.get(name, value) != value for name, value in plain.items()):
        return False
    outputs, inputs, *kernel = shapes[node.input[1]]
    return kernel == [1, 1] and max(outputs, inputs) <= MOST_CHANNELS and min(shapes[node.input[0]][1:]) > 0


class _Written:
    """Add nodes at the model's end, and each constant once.

    Attributes:
        rows: Values (N, C, H * W) that hold the same as values (N, C, H, W), by these values' names.
    """

    def __init__(self, model: onnx.ModelProto):
        self.rows: dict[str, str] = {}
        self._graph = model.graph
        self._constants = {item.name for item in model.graph.initializer}
        self._pictures: list[onnx.NodeProto] = []

    def product(self, node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> None:
        """Add nodes that compute the same as a Conv node."""
        features, weight, result = node.input[0], node.input[1], node.output[0]
        outputs, inputs, *_ = shapes[weight]
        if features not in self.rows:
            self.rows[features] = self._add("Reshape", [features, self._sizes(0, inputs, -1)], f"{features}_row")
        matrix = self._add("Reshape", [weight, self._sizes(outputs, inputs)], f"{result}_matrix")
        self.rows[result] = self._add("MatMul", [matrix, self.rows[features]], f"{result}_row")
        self._picture(result, (outputs, *shapes[features][2:]))

    def tanh(self, node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> None:
        """Add nodes that compute the same as a Tanh node, from pixels in a row."""
        features, result = node.input[0], node.output[0]
        self.rows[result] = self._add("Tanh", [self.rows[features]], f"{result}_row")
        self._picture(result, shapes[features][1:])

    def remove_unused_pictures(self) -> None:
        """Remove the reshapes that nobody needs, because what follows takes the pixels in a row."""
        needed = {name for node in self._graph.node for name in node.input} | {out.name for out in self._graph.output}
        for node in self._pictures:
            if node.output[0] not in needed:
                self._graph.node.remove(node)

    def _picture(self, result: str, sizes: tuple[int, ...]) -> None:
        self._add("Reshape", [self.rows[result], self._sizes(0, *sizes)], result)
        self._pictures.append(self._graph.node[-1])

    def _sizes(self, *sizes: int) -> str:
        """Store the sizes for a Reshape, in which 0 keeps a size and -1 is what is left."""
        name = "sizes_" + "_".join("n" if size == -1 else str(size) for size in sizes)
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.array(sizes), name))
        return name

    def _add(self, operator: str, values: list[str], result: str) -> str:
        self._graph.node.append(helper.make_node(operator, values, [result], f"{operator}_{result}"))
        return result
