"""Tell the shapes of an ONNX model's values."""

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
