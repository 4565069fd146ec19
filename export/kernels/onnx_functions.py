"""The fused kernel as an ONNX node of the domain `ai.sgn`: a function of the model, whose body is standard operators.

A file with such a node runs in every runtime, which computes the body. Where the kernels' library (library_path) is
registered with the session, ONNX Runtime runs its kernel instead; this was tested with 1.20, 1.23 and 1.32.

A body is written for one number of layers, with or without the division by the root mean square. A model holds one body
for each name.
"""

from pathlib import Path

import onnx
import torch
from onnx import FunctionProto, ModelProto
from onnx.defs import OpSchema

from export.kernels.operators import BUILD_FOLDER
from training.networks.self_gradient import SMALLEST_MEAN_SQUARE

DOMAIN = "ai.sgn"
DOMAIN_VERSION = 1
OPSET = 18
"""Opset of the standard operators in the body."""


def library_path() -> Path:
    """Return the path that `make kernels ORT_INCLUDE_DIR=...` builds the library for ONNX Runtime at.

    A session's options load it with `register_custom_ops_library`.
    """
    return BUILD_FOLDER / "libsgn_onnxruntime.so"


def self_gradient_block(layers: int, rms: bool) -> FunctionProto:
    """Return SelfGradientBlock(image, gradient, weights) with the attributes scale and rms.

    See reference.self_gradient_block for what it computes.

    Args:
        layers: The first size of weights.
        rms: The attribute's value, which a body cannot read.
    """
    normalise = f"""
        square = Mul (gradient_0, gradient_0)
        axes = Constant <value_ints = [1, 2, 3]> ()
        mean_square = ReduceMean <keepdims = 1> (square, axes)
        smallest = Constant <value_float = {SMALLEST_MEAN_SQUARE}> ()
        largest = Constant <value_float = {torch.finfo(torch.float32).max}> ()
        positive = Clip (mean_square, smallest, largest)
        root = Sqrt (positive)
        layer_0 = Div (gradient_0, root)
    """
    body = "".join(
        f"""
        index_{layer} = Constant <value_int = {layer}> ()
        matrix_{layer} = Gather <axis = 0> (weights, index_{layer})
        kernel_{layer} = Unsqueeze (matrix_{layer}, pixel)
        mixed_{layer} = Conv (layer_{layer}, kernel_{layer})
        layer_{layer + 1} = Tanh (mixed_{layer})
        """
        for layer in range(layers)
    )
    return _function(
        f"""
        SelfGradientBlock <scale, rms> (image, gradient, weights) => (corrected)
        {{
        gradient_0 = Cast <to = 1> (gradient)
        {normalise if rms else "layer_0 = Identity (gradient_0)"}
        pixel = Constant <value_ints = [2, 3]> ()
        {body}
        factor = Constant <value_float: float = @scale> ()
        correction = Mul (layer_{layers}, factor)
        image_0 = Cast <to = 1> (image)
        sum = Add (image_0, correction)
        corrected = CastLike (sum, image)
        }}
        """
    )


def self_gradient_block_schema() -> OpSchema:
    """Return the node's declaration for PyTorch's exporter."""
    parameter, floats = OpSchema.FormalParameter, ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    return OpSchema(
        "SelfGradientBlock",
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[parameter("image", "T"), parameter("gradient", "T"), parameter("weights", "tensor(float)")],
        outputs=[parameter("corrected", "T")],
        type_constraints=[("T", floats, "type of the pictures")],
        attributes=[
            OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT, required=True),
            OpSchema.Attribute("rms", OpSchema.AttrType.INT, required=True),
        ],
    )


def add_function(model: ModelProto, function: FunctionProto) -> None:
    """Add the function to the model, in place.

    Raises:
        ValueError: The model has another function of that name.
    """
    for present in model.functions:
        if (present.domain, present.name) == (function.domain, function.name):
            if present != function:
                raise ValueError(f"the model has another function {function.domain}.{function.name} already")
            return
    model.functions.append(function)
    if all(item.domain != DOMAIN for item in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def _function(text: str) -> FunctionProto:
    return onnx.parser.parse_function(f'<opset_import: ["": {OPSET}], domain: "{DOMAIN}">\n{text}')
