"""Write the backward operators of the first pass in terms of forward ones.

A runtime knows no `convolution_backward`. PyTorch's own tables cover most backward operators. The rules here are those
that the tables lack, or for which they choose a form that runtimes are slow at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

aten = torch.ops.aten

Decompositions = dict[Any, Callable[..., Any]]


def decompositions() -> Decompositions:
    """Return PyTorch's core ATen decompositions and ours, as make_fx takes them."""
    return {
        **core_aten_decompositions(),
        **get_decompositions([aten.hardsigmoid_backward]),  # PyTorch has it, but not among the core ones
        aten.convolution_backward.default: convolution_input_gradient,
        aten.threshold_backward.default: relu_input_gradient,
        aten.max_pool2d_with_indices_backward.default: max_pool_input_gradient,
        aten.avg_pool2d_backward.default: average_pool_input_gradient,
        aten._adaptive_avg_pool2d.default: adaptive_average_pool,
        aten._adaptive_avg_pool2d_backward.default: adaptive_average_pool_input_gradient,
        **{backward: resize_input_gradient(forward) for backward, forward in _RESIZES.items()},
        aten.empty_permuted.default: empty_permuted,
    }


_RESIZES = {
    aten.upsample_nearest2d_backward.default: aten.upsample_nearest2d.default,
    aten._upsample_nearest_exact2d_backward.default: aten._upsample_nearest_exact2d.default,
    aten.upsample_bilinear2d_backward.default: aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d_backward.default: aten.upsample_bicubic2d.default,
}
"""Backward operators behind F.interpolate, each with its forward operator."""


@dataclass(frozen=True)
class _Windows:
    """Position of a convolution's or a pooling's windows on the feature map.

    Attributes:
        stride: Pixels from one window to the next, (rows, columns).
        padding: Pixels added at each edge, (rows, columns).
        dilation: Pixels from one kernel element to the next, (rows, columns).
    """

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]


def convolution_input_gradient(  # noqa: PLR0913  # aten's signature
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Return the gradient of a convolution with respect to its input, as a transposed convolution.

    The gradient of a transposed convolution is an ordinary convolution. The arguments are those of
    aten::convolution_backward.

    Raises:
        ValueError: The gradient of a weight is asked for; the first pass differentiates by the image only.
    """
    if output_mask[1] or output_mask[2]:
        raise ValueError("only gradients with respect to a convolution's input can be exported, not to its weights")
    if transposed:
        no_padding = [0] * len(stride)
        result = aten.convolution(gradient, weight, None, stride, padding, dilation, False, no_padding, groups)
        return result, None, None
    windows = _Windows(stride, padding, dilation)
    return _transposed_convolution(gradient, weight, features.shape[2:], windows, groups), None, None


def _transposed_convolution(
    gradient: Tensor, weight: Tensor, sizes: Sequence[int], windows: _Windows, groups: int
) -> Tensor:
    """Return the transposed convolution whose result is `sizes` (height, width) large, cut where it would be larger."""
    stride, padding, dilation = windows.stride, windows.padding, windows.dilation
    missing = [
        size - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i, size in enumerate(sizes)
    ]
    # A strided convolution maps several input sizes to one output size; output_padding picks the right one.
    output_padding = [max(0, size) for size in missing]
    result = aten.convolution(gradient, weight, None, stride, padding, dilation, True, output_padding, groups)
    return result if min(missing) >= 0 else result[:, :, : sizes[0], : sizes[1]]


def relu_input_gradient(gradient: Tensor, features: Tensor, threshold: float) -> Tensor:
    """Return the gradient of a ReLU: aten::threshold_backward as a product with the mask.

    PyTorch's form, where(features <= threshold, 0, gradient), took 24 % of a two-pass graph's time in ONNX Runtime.
    A product is nearly free, and is the same for every finite gradient.
    """
    return gradient * (features > threshold).to(gradient.dtype)


def max_pool_input_gradient(  # noqa: PLR0913  # aten's signature
    gradient: Tensor,
    features: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Return the gradient of max-pooling, aten::max_pool2d_with_indices_backward.

    Each element of the gradient is added at the position of the maximum that it belongs to.
    """
    flat = torch.zeros_like(features).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), gradient.flatten(2)).view(features.shape)


def average_pool_input_gradient(  # noqa: PLR0913  # aten's signature
    gradient: Tensor,
    features: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Return the gradient of average pooling, aten::avg_pool2d_backward, as a depthwise transposed convolution."""
    strides = list(stride) or list(kernel_size)
    sizes = list(features.shape[2:])
    channels = features.shape[1]
    divisor = divisor_override or kernel_size[0] * kernel_size[1]

    def pixels(axis: int) -> Tensor:
        windows = torch.arange(gradient.shape[2 + axis], dtype=gradient.dtype, device=gradient.device)
        starts = windows * strides[axis] - padding[axis]
        margin = padding[axis] if count_include_pad else 0
        return _pixels_of_windows(starts, kernel_size[axis], sizes[axis], margin)

    if divisor_override is None and (ceil_mode or (any(padding) and not count_include_pad)):
        # Windows that reach over the edge are divided by fewer pixels.
        rows, columns = pixels(0), pixels(1)
        gradient, divisor = gradient / (rows[:, None] * columns), 1
    weight = torch.full((channels, 1, *kernel_size), 1 / divisor, dtype=gradient.dtype, device=gradient.device)
    return _transposed_convolution(gradient, weight, sizes, _Windows(strides, padding, [1, 1]), channels)


def _pixels_of_windows(starts: Tensor, kernel_size: int, size: int, margin: int) -> Tensor:
    """Return how many pixels each pooling window spans along one axis.

    Args:
        starts: (windows), the first pixel of each window; negative in the padding.
        kernel_size: Pixels of a whole window.
        size: Pixels of the feature map.
        margin: Pixels of padding at each edge that count.

    Returns:
        (windows), at most kernel_size.
    """
    return (starts + kernel_size).clamp(max=size + margin) - starts.clamp(min=-margin)


def adaptive_average_pool(features: Tensor, output_size: Sequence[int]) -> Tensor:
    """Apply adaptive average pooling, aten::_adaptive_avg_pool2d, as a product with two matrices of averages.

    Its windows may overlap, and no runtime has an operator for that.
    """
    rows, columns = _averages(features, 2, output_size[0]), _averages(features, 3, output_size[1])
    return rows @ features @ columns.T


def adaptive_average_pool_input_gradient(gradient: Tensor, features: Tensor) -> Tensor:
    """Return the gradient of adaptive average pooling, aten::_adaptive_avg_pool2d_backward.

    It is the product with the same matrices, transposed.
    """
    rows, columns = _averages(features, 2, gradient.shape[2]), _averages(features, 3, gradient.shape[3])
    return rows.T @ gradient @ columns


def _averages(features: Tensor, axis: int, outputs: int) -> Tensor:
    """Return the matrix (outputs, inputs) of adaptive average pooling along one axis.

    Row i averages the pixels from floor(i * inputs / outputs) to ceil((i + 1) * inputs / outputs).
    """
    inputs = features.shape[axis]
    index = torch.arange(outputs, device=features.device)[:, None]
    pixel = torch.arange(inputs, device=features.device)
    # Integers throughout: pixel >= floor(a / b) is pixel * b > a - b, and pixel < ceil(a / b) is pixel * b < a.
    inside = (pixel * outputs > index * inputs - outputs) & (pixel * outputs < (index + 1) * inputs)
    weights = inside.to(features.dtype)
    return weights / weights.sum(dim=1, keepdim=True)


def resize_input_gradient(resize: torch._ops.OpOverload) -> Callable[..., Tensor]:
    """Return the decomposition of aten::upsample_*2d_backward for one of F.interpolate's operators.

    Resizing is linear, and rows and columns are independent. So the identity matrix resized along one axis is that
    axis' matrix, and the gradient is the product with the transposed matrices.
    """
    corners = sum(argument.name == "align_corners" for argument in resize._schema.arguments)

    def input_gradient(
        gradient: Tensor, output_size: Sequence[int], input_size: Sequence[int], *options: Any
    ) -> Tensor:
        row_scale, column_scale = (*options[corners:], None, None)[:2]  # None may be left out

        def matrix(outputs: int, inputs: int, scale: float | None) -> Tensor:
            identity = torch.eye(inputs, dtype=gradient.dtype, device=gradient.device)[None, None]
            return resize(identity, [outputs, inputs], *options[:corners], scale, None)[0, 0]

        rows = matrix(output_size[0], input_size[2], row_scale)
        columns = matrix(output_size[1], input_size[3], column_scale)
        return rows.T @ gradient @ columns

    return input_gradient


def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], **options: Any) -> Tensor:
    """Return zeros for aten::empty_permuted, which some of PyTorch's decompositions use.

    Graphs have no memory layout.
    """
    return torch.zeros(size, dtype=options.get("dtype"))
