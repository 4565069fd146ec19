"""How the first pass's way back is written down: backward operators in terms of forward ones.

A runtime knows no `convolution_backward`. PyTorch's own tables cover most backward operators; here are those that they
lack, or for which they choose a form that runtimes are slow at.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions

aten = torch.ops.aten

Decompositions = dict[Any, Callable[..., Any]]


def decompositions() -> Decompositions:
    """PyTorch's core ATen decompositions and ours, as make_fx takes them."""
    return {
        **core_aten_decompositions(),
        aten.convolution_backward.default: convolution_input_gradient,
        aten.threshold_backward.default: relu_input_gradient,
        aten.max_pool2d_with_indices_backward.default: max_pool_input_gradient,
        aten.avg_pool2d_backward.default: average_pool_input_gradient,
        aten._adaptive_avg_pool2d_backward.default: adaptive_average_pool_input_gradient,
        aten.empty_permuted.default: empty_permuted,
    }


def convolution_input_gradient(
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
    """Gradient of a convolution with respect to its input, as the transposed convolution (and the other way round).

    The arguments are those of aten::convolution_backward.
    raises ValueError where a weight's gradient is asked for: the first pass differentiates by the image only
    """
    if output_mask[1] or output_mask[2]:
        raise ValueError("only gradients with respect to a convolution's input can be exported, not to its weights")
    if transposed:
        return aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0, 0], groups), None, None
    spatial = range(len(stride))
    # Of the input sizes that a strided convolution maps to one output size, output_padding picks the right one.
    missing = [
        features.shape[2 + i]
        - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in spatial
    ]
    return aten.convolution(gradient, weight, None, stride, padding, dilation, True, missing, groups), None, None


def relu_input_gradient(gradient: Tensor, features: Tensor, threshold: float) -> Tensor:
    """Gradient of a ReLU: aten::threshold_backward as a product with the mask.

    PyTorch's form, where(features <= threshold, 0, gradient), took 24 % of a two-pass graph's time in ONNX Runtime;
    a product is nearly free and is the same for every finite gradient.
    """
    return gradient * (features > threshold).to(gradient.dtype)


def max_pool_input_gradient(
    gradient: Tensor,
    features: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Gradient of max-pooling, aten::max_pool2d_with_indices_backward: each goes back to where its maximum was."""
    flat = torch.zeros_like(features).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), gradient.flatten(2)).view(features.shape)


def average_pool_input_gradient(
    gradient: Tensor,
    features: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Gradient of average pooling, aten::avg_pool2d_backward, as a transposed convolution channel by channel.

    raises NotImplementedError for ceil_mode, and for padding that does not count: their divisor varies over the picture
    """
    if ceil_mode or (any(padding) and not count_include_pad and divisor_override is None):
        raise NotImplementedError(
            "AvgPool2d with ceil_mode=True, or with padding and count_include_pad=False, cannot be exported; "
            "use count_include_pad=True and a size that the stride divides"
        )
    strides = list(stride) or list(kernel_size)
    channels = features.shape[1]
    divisor = divisor_override or kernel_size[0] * kernel_size[1]
    weight = torch.full((channels, 1, *kernel_size), 1 / divisor, dtype=gradient.dtype, device=gradient.device)
    return convolution_input_gradient(
        gradient, features, weight, None, strides, padding, [1, 1], False, [0, 0], channels, [True, False, False]
    )[0]


def adaptive_average_pool_input_gradient(gradient: Tensor, features: Tensor) -> Tensor:
    """Gradient of adaptive average pooling, aten::_adaptive_avg_pool2d_backward.

    raises NotImplementedError where the output size does not divide the input size: the windows then overlap unevenly
    """
    sizes = list(features.shape[2:])
    output_sizes = list(gradient.shape[2:])
    if any(size % output_size for size, output_size in zip(sizes, output_sizes, strict=True)):
        raise NotImplementedError(
            f"AdaptiveAvgPool2d from {sizes} to {output_sizes} cannot be exported; "
            "use an output size that divides the input size"
        )
    kernel_size = [size // output_size for size, output_size in zip(sizes, output_sizes, strict=True)]
    return average_pool_input_gradient(gradient, features, kernel_size, kernel_size, [0, 0], False, True, None)


def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], **options: Any) -> Tensor:
    """aten::empty_permuted, which some of PyTorch's decompositions use; graphs have no memory layout."""
    return torch.zeros(size, dtype=options.get("dtype"))
