"""Write the backward operators of the first pass in terms of forward ones.

A runtime knows no `convolution_backward`. PyTorch's own tables cover most backward operators. The rules here are those
that the tables lack, or for which they choose a form that runtimes are slow at.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.utils._python_dispatch import _disable_current_modes

from export.capture.max_pooling import by_comparisons, gradient_by_comparisons
from export.capture.resizing import RESIZING
from export.errors import CaptureError

aten = torch.ops.aten

Decompositions = dict[Any, Callable[..., Any]]


@cache
def decompositions() -> Decompositions:
    """Return PyTorch's core ATen decompositions and ours, as make_fx takes them: one table, which nobody changes."""
    return {
        **{operator: rule for operator, rule in core_aten_decompositions().items() if operator not in _KEPT},
        aten.convolution_backward.default: convolution_input_gradient,
        aten.threshold_backward.default: relu_input_gradient,
        aten.hardtanh_backward.default: hard_tanh_input_gradient,
        aten.hardsigmoid_backward.default: hard_sigmoid_input_gradient,
        aten.hardswish_backward.default: hard_swish_input_gradient,
        aten.max_pool2d_with_indices_backward.default: max_pool_input_gradient,
        aten.avg_pool2d_backward.default: average_pool_input_gradient,
        aten._adaptive_avg_pool2d.default: adaptive_average_pool,
        aten._adaptive_avg_pool2d_backward.default: adaptive_average_pool_input_gradient,
        aten.adaptive_max_pool2d.default: adaptive_max_pool,
        aten.adaptive_max_pool2d_backward.default: adaptive_max_pool_input_gradient,
        aten.avg_pool3d_backward.default: average_pool_input_gradient,
        **RESIZING,
        aten.replication_pad2d_backward.default: replication_pad_input_gradient,
        aten.grid_sampler_2d_backward.default: grid_sample_input_gradient,
        aten.rrelu_with_noise.default: randomised_leaky_relu,
        aten.rrelu_with_noise_backward.default: randomised_leaky_relu_input_gradient,
        aten._trilinear.default: trilinear,
        aten.empty_permuted.default: empty_permuted,
    }


_KEPT = (aten.hardswish.default, aten.hardsigmoid.default)
"""Operators that stay whole. Every format has them, and runtimes fuse them with the convolution before."""


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
    if min(missing) >= 0:
        return result
    for axis, size in enumerate(sizes):
        result = result.narrow(2 + axis, 0, size)
    return result


def relu_input_gradient(gradient: Tensor, features: Tensor, threshold: float) -> Tensor:
    """Return the gradient of a ReLU: aten::threshold_backward as a product with the mask.

    PyTorch's form, where(features <= threshold, 0, gradient), took 24 % of a two-pass graph's time in ONNX Runtime.
    A product is nearly free, and is the same for every finite gradient.
    """
    return gradient * (features > threshold).to(gradient.dtype)


def hard_tanh_input_gradient(gradient: Tensor, features: Tensor, lowest: float, highest: float) -> Tensor:
    """Return the gradient of a ReLU6 or another bounded ReLU: aten::hardtanh_backward as a product with two masks.

    See relu_input_gradient.
    """
    return gradient * (features > lowest).to(gradient.dtype) * (features < highest).to(gradient.dtype)


def hard_sigmoid_input_gradient(gradient: Tensor, features: Tensor) -> Tensor:
    """Return the gradient of a hard sigmoid, aten::hardsigmoid_backward, as a product with two masks."""
    return hard_tanh_input_gradient(gradient, features, -3, 3) * (1 / 6)


def hard_swish_input_gradient(gradient: Tensor, features: Tensor) -> Tensor:
    """Return the gradient of a hard-swish, aten::hardswish_backward, without a choice.

    Formula: slope = 2 * hard_sigmoid(x) - (1[x > -3] + 1[x >= 3]) / 2. It is 0 below -3, x / 3 + 1/2 up to 3, and 1
    from there on. The hard sigmoid is part of the hard-swish itself. No term is infinite where x is, unlike x / 3. The
    factor 2 comes last, so that a convolution can take it.
    """
    steps = (features > -3).to(gradient.dtype) + (features >= 3).to(gradient.dtype)
    half_slope = aten.hardsigmoid(features) + steps * -0.25
    return gradient * half_slope * 2


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

    Large windows: each element of the gradient is added at the position of the maximum that it belongs to.
    """
    if by_comparisons(kernel_size, dilation):
        # The same call as in the forward pass, which export.rewrite makes one.
        maxima, _ = aten.max_pool2d_with_indices(features, kernel_size, stride, padding, dilation, ceil_mode)
        return gradient_by_comparisons(gradient, features, maxima, kernel_size, stride or kernel_size, padding)
    flat = torch.zeros_like(features).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), gradient.flatten(2)).view(features.shape)


def adaptive_max_pool(features: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Apply adaptive max-pooling, aten::adaptive_max_pool2d, whose windows differ in size where sizes do not divide.

    Each window is read pixel by pixel. A smaller window repeats its last row and column, which leaves its maximum and
    the first place of it as they are.

    Returns:
        Maxima, and the place of each on the feature map, counted row by row.
    """
    height, width = features.shape[2:]
    rows, columns = _adaptive_windows(height, output_size[0]), _adaptive_windows(width, output_size[1])
    windows = features[:, :, _integers(rows)][..., _integers(columns)]  # (N, C, rows, in rows, columns, in columns)
    maxima, places = windows.permute(0, 1, 2, 4, 3, 5).flatten(-2).max(-1)
    table = [[[row * width + column for row in y for column in x] for x in columns] for y in rows]
    indices = _integers(table).expand(*features.shape[:2], -1, -1, -1).gather(-1, places.unsqueeze(-1))
    return maxima, indices.squeeze(-1)


def _adaptive_windows(inputs: int, outputs: int) -> list[list[int]]:
    """Return the pixels of each adaptive window along one axis, all lists of one length: the last pixel is repeated."""
    windows = [range(i * inputs // outputs, -(-(i + 1) * inputs // outputs)) for i in range(outputs)]
    longest = max(map(len, windows))
    return [[*window, *[window[-1]] * (longest - len(window))] for window in windows]


def _integers(values: list[Any]) -> Tensor:
    """Return a constant of whole numbers, made outside of what is being traced."""
    with _disable_current_modes():
        return torch.tensor(values)


def adaptive_max_pool_input_gradient(gradient: Tensor, features: Tensor, indices: Tensor) -> Tensor:
    """Return the gradient of adaptive max-pooling, aten::adaptive_max_pool2d_backward; see max_pool_input_gradient."""
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
    """Return the gradient of average pooling as a depthwise transposed convolution.

    It serves aten::avg_pool2d_backward and aten::avg_pool3d_backward. Local response normalisation pools over three
    axes, one of them the channels.

    Raises:
        CaptureError: Windows along three axes reach over the edge and are divided by fewer elements there.
    """
    axes = len(kernel_size)
    strides = list(stride) or list(kernel_size)
    sizes, channels = list(features.shape[-axes:]), features.shape[-axes - 1]
    divisor = divisor_override or math.prod(kernel_size)

    def pixels(axis: int) -> Tensor:
        windows = torch.arange(gradient.shape[2 + axis], dtype=gradient.dtype, device=gradient.device)
        starts = windows * strides[axis] - padding[axis]
        margin = padding[axis] if count_include_pad else 0
        return _pixels_of_windows(starts, kernel_size[axis], sizes[axis], margin)

    if divisor_override is None and (ceil_mode or (any(padding) and not count_include_pad)):
        if axes != 2:
            raise CaptureError(
                "three-dimensional average pooling has no gradient here where it divides by fewer elements at the edge",
                "aten::avg_pool3d_backward",
            )
        # Windows that reach over the edge are divided by fewer pixels.
        rows, columns = pixels(0), pixels(1)
        gradient, divisor = gradient / (rows[:, None] * columns), 1
    weight = torch.full((channels, 1, *kernel_size), 1 / divisor, dtype=gradient.dtype, device=gradient.device)
    windows = _Windows(strides, padding, [1] * axes)
    if gradient.dim() == axes + 2:
        return _transposed_convolution(gradient, weight, sizes, windows, channels)
    return _transposed_convolution(gradient.unsqueeze(0), weight, sizes, windows, channels).squeeze(0)


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


def replication_pad_input_gradient(gradient: Tensor, features: Tensor, padding: Sequence[int]) -> Tensor:
    """Return the gradient of padding with the pixel at the edge, aten::replication_pad2d_backward.

    Padding repeats rows and columns, so its gradient is their sum: the product with a constant matrix for each axis.
    """
    left, right, top, bottom = padding

    def repeats(pixels: int, before: int, after: int) -> Tensor:
        with _disable_current_modes():
            return torch.eye(pixels, dtype=gradient.dtype)[torch.arange(-before, pixels + after).clamp(0, pixels - 1)]

    rows, columns = repeats(features.shape[-2], top, bottom), repeats(features.shape[-1], left, right)
    return rows.T @ gradient @ columns


def grid_sample_input_gradient(  # noqa: PLR0913  # aten's signature
    gradient: Tensor,
    features: Tensor,
    grid: Tensor,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradient of F.grid_sample, aten::grid_sampler_2d_backward, for bilinear sampling padded with zeros.

    Each pixel that was read adds its share of the gradient where it was read from.

    Raises:
        CaptureError: Another mode or padding.
    """
    if interpolation_mode != 0 or padding_mode != 0:
        raise CaptureError(
            "grid_sample has a gradient here with mode bilinear and padding zeros alone",
            "aten::grid_sampler_2d_backward",
        )
    height, width = features.shape[2:]
    x, y = (
        (position + 1) * (size - 1) / 2 if align_corners else ((position + 1) * size - 1) / 2
        for position, size in zip(grid.unbind(-1), (width, height), strict=True)
    )
    left, top = x.floor(), y.floor()
    features_gradient = torch.zeros_like(features).flatten(2)
    x_gradient, y_gradient = torch.zeros_like(x), torch.zeros_like(y)
    for column, row, x_sign, y_sign in (
        (left, top, -1, -1),
        (left + 1, top, 1, -1),
        (left, top + 1, -1, 1),
        (left + 1, top + 1, 1, 1),
    ):
        inside = ((column >= 0) & (column < width) & (row >= 0) & (row < height)).to(features.dtype)
        x_share, y_share = 1 - (x - column).abs(), 1 - (y - row).abs()
        place = (inside * (row * width + column)).long().flatten(1)  # points outside have no share anywhere
        places = place.unsqueeze(1).expand(-1, features.shape[1], -1)
        if output_mask[0]:
            shares = gradient * (inside * x_share * y_share).unsqueeze(1)
            features_gradient = features_gradient.scatter_add(2, places, shares.flatten(2))
        if output_mask[1]:
            values = features.flatten(2).gather(2, places).view(gradient.shape)
            product = (gradient * values).sum(1) * inside
            x_gradient, y_gradient = x_gradient + x_sign * y_share * product, y_gradient + y_sign * x_share * product
    if align_corners:
        x_gradient, y_gradient = x_gradient * ((width - 1) / 2), y_gradient * ((height - 1) / 2)
    else:
        x_gradient, y_gradient = x_gradient * (width / 2), y_gradient * (height / 2)
    return (
        features_gradient.view(features.shape) if output_mask[0] else None,
        torch.stack((x_gradient, y_gradient), dim=-1) if output_mask[1] else None,
    )


def randomised_leaky_relu(
    features: Tensor,
    noise: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Tensor:
    """Apply a randomised leaky ReLU, aten::rrelu_with_noise, in eval mode: with the mean of its slopes.

    Raises:
        CaptureError: Training mode, where the slopes are random.
    """
    if training:
        raise CaptureError(
            "a randomised leaky ReLU in training mode has random slopes, which a graph has not",
            "aten::rrelu_with_noise",
        )
    return F.leaky_relu(features, (lower + upper) / 2)


def randomised_leaky_relu_input_gradient(  # noqa: PLR0913  # aten's signature
    gradient: Tensor,
    features: Tensor,
    noise: Tensor,
    lower: float,
    upper: float,
    training: bool,
    self_is_result: bool,
) -> Tensor:
    """Return the gradient of a randomised leaky ReLU in eval mode, aten::rrelu_with_noise_backward."""
    positive = (features > 0).to(gradient.dtype)
    slope = (lower + upper) / 2
    return gradient * (positive * (1 - slope) + slope)


def trilinear(  # noqa: PLR0913  # aten's signature
    first: Tensor,
    second: Tensor,
    third: Tensor,
    first_axes: Sequence[int],
    second_axes: Sequence[int],
    third_axes: Sequence[int],
    summed_axes: Sequence[int],
    unroll_axis: int = 1,
) -> Tensor:
    """Return the sum of products behind F.bilinear, aten::_trilinear: each factor gets new axes, some are summed."""
    factors = []
    for factor, axes in ((first, first_axes), (second, second_axes), (third, third_axes)):
        for axis in sorted(axes):
            factor = factor.unsqueeze(axis)
        factors.append(factor)
    return (factors[0] * factors[1] * factors[2]).sum(list(summed_axes))


def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], **options: Any) -> Tensor:
    """Return zeros for aten::empty_permuted, which some of PyTorch's decompositions use.

    Graphs have no memory layout.
    """
    return torch.zeros(size, dtype=options.get("dtype"))
