"""The fused kernels as ONNX nodes of the domain `ai.sgn`: functions of the model itself, with standard bodies.

A file with such nodes runs in every runtime, which computes the bodies, of standard operators. Where the library is
registered with the session (library_path), ONNX Runtime takes its kernels instead: 1.20, 1.23 and 1.32 were seen to.

A body is written for one use: for its number of layers, with or without the division by the root mean square, with or
without a residual. A model holds one body per name.
"""

from pathlib import Path

import onnx
from onnx import FunctionProto, ModelProto
from onnx.defs import OpSchema

from export.kernels.operators import BUILD_FOLDER

DOMAIN = "ai.sgn"
DOMAIN_VERSION = 1
OPSET = 18
"""Of the standard operators in the bodies."""

TINY = "1.17549435e-38"
"""The smallest normal float32: keeps 0 / 0 away from a gradient of zero."""


def library_path() -> Path:
    """Where `make kernels ORT_INCLUDE_DIR=...` puts the library for ONNX Runtime's `register_custom_ops_library`."""
    return BUILD_FOLDER / "libsgn_onnxruntime.so"


def self_gradient_block(layers: int, rms: bool) -> FunctionProto:
    """SelfGradientBlock(image, gradient, weights) with the attributes scale and rms: see reference.self_gradient_block.

    layers: the first size of weights
    rms:    the attribute's value, which the body cannot ask for
    """
    normalise = f"""
        square = Mul (gradient_0, gradient_0)
        axes = Constant <value_ints = [1, 2, 3]> ()
        mean_square = ReduceMean <keepdims = 1> (square, axes)
        tiny = Constant <value_float = {TINY}> ()
        positive = Add (mean_square, tiny)
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
    """The node as the exporter has to know it."""
    parameter, floats = OpSchema.FormalParameter, ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    return OpSchema(
        "SelfGradientBlock",
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[parameter("image", "T"), parameter("gradient", "T"), parameter("weights", "tensor(float)")],
        outputs=[parameter("corrected", "T")],
        type_constraints=[("T", floats, "what pictures are stored as")],
        attributes=[
            OpSchema.Attribute("scale", OpSchema.AttrType.FLOAT, required=True),
            OpSchema.Attribute("rms", OpSchema.AttrType.INT, required=True),
        ],
    )


def scale_shift_relu() -> FunctionProto:
    """ScaleShiftRelu(features, scale, shift) => (result, mask): see reference.scale_shift_relu."""
    return _function(
        """
        ScaleShiftRelu (features, scale, shift) => (result, mask)
        {
        pixel = Constant <value_ints = [1, 2]> ()
        features_0 = Cast <to = 1> (features)
        scales = Unsqueeze (scale, pixel)
        shifts = Unsqueeze (shift, pixel)
        scaled = Mul (features_0, scales)
        shifted = Add (scaled, shifts)
        rectified = Relu (shifted)
        result = CastLike (rectified, features)
        zero = Constant <value_float = 0.0> ()
        passed = Greater (shifted, zero)
        bits = Cast <to = 6> (passed)
        batch = Shape <start = 0, end = 1> (features)
        channels = Shape <start = 1, end = 2> (features)
        sizes = Shape <start = 2, end = 4> (features)
        seven = Constant <value_ints = [7]> ()
        eight = Constant <value_ints = [8]> ()
        rounded_up = Add (channels, seven)
        bytes = Div (rounded_up, eight)
        all = Mul (bytes, eight)
        missing = Sub (all, channels)
        before = Constant <value_ints = [0, 0, 0, 0, 0]> ()
        behind = Constant <value_ints = [0, 0]> ()
        pads = Concat <axis = 0> (before, missing, behind)
        padded = Pad (bits, pads)
        grouped = Concat <axis = 0> (batch, bytes, eight, sizes)
        groups = Reshape <allowzero = 1> (padded, grouped)
        powers = Constant <value = int32[8,1,1] {1, 2, 4, 8, 16, 32, 64, 128}> ()
        placed = Mul (groups, powers)
        bit_axis = Constant <value_ints = [2]> ()
        packed = ReduceSum <keepdims = 0> (placed, bit_axis)
        mask = Cast <to = 2> (packed)
        }
        """
    )


def mask_scale_add(residual: bool) -> FunctionProto:
    """MaskScaleAdd(gradient, mask, scale[, residual]) => (result): see reference.mask_scale_add."""
    add = """
        other = Cast <to = 1> (residual)
        sum = Add (kept, other)
    """
    return _function(
        f"""
        MaskScaleAdd (gradient, mask, scale{", residual" if residual else ""}) => (result)
        {{
        pixel = Constant <value_ints = [1, 2]> ()
        gradient_0 = Cast <to = 1> (gradient)
        scales = Unsqueeze (scale, pixel)
        scaled = Mul (gradient_0, scales)
        packed = Cast <to = 6> (mask)
        bit_axis = Constant <value_ints = [2]> ()
        grouped = Unsqueeze (packed, bit_axis)
        powers = Constant <value = int32[8,1,1] {{1, 2, 4, 8, 16, 32, 64, 128}}> ()
        shifted = Div (grouped, powers)
        two = Constant <value = int32[1] {{2}}> ()
        bits = Mod (shifted, two)
        batch = Shape <start = 0, end = 1> (mask)
        bytes = Shape <start = 1, end = 2> (mask)
        sizes = Shape <start = 2, end = 4> (mask)
        eight = Constant <value_ints = [8]> ()
        all = Mul (bytes, eight)
        flat = Concat <axis = 0> (batch, all, sizes)
        padded = Reshape <allowzero = 1> (bits, flat)
        first = Constant <value_ints = [0]> ()
        channels = Shape <start = 1, end = 2> (gradient)
        axis = Constant <value_ints = [1]> ()
        own = Slice (padded, first, channels, axis)
        passed = Cast <to = 9> (own)
        zero = Constant <value_float = 0.0> ()
        kept = Where (passed, scaled, zero)
        {add if residual else "sum = Identity (kept)"}
        result = CastLike (sum, gradient)
        }}
        """
    )


def add_function(model: ModelProto, function: FunctionProto) -> None:
    """Makes the function known to the model, in place.

    raises ValueError where the model has another one of that name
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
