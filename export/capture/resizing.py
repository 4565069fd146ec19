"""Write the resizing of F.interpolate, and its gradient, as products with constant matrices."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten

_RESIZES = {
    aten.upsample_nearest2d_backward.default: aten.upsample_nearest2d.default,
    aten._upsample_nearest_exact2d_backward.default: aten._upsample_nearest_exact2d.default,
    aten.upsample_bilinear2d_backward.default: aten.upsample_bilinear2d.default,
    aten.upsample_bicubic2d_backward.default: aten.upsample_bicubic2d.default,
}
"""Backward operators behind F.interpolate, each with its forward operator."""

_ANTIALIASED = {
    aten._upsample_bilinear2d_aa_backward.default: (aten._upsample_bilinear2d_aa.default, "bilinear"),
    aten._upsample_bicubic2d_aa_backward.default: (aten._upsample_bicubic2d_aa.default, "bicubic"),
}
"""Backward operators behind F.interpolate(antialias=True), each with its forward operator and its mode."""


def resize_input_gradient(resize: torch._ops.OpOverload) -> Callable[..., Tensor]:
    """Return the decomposition of aten::upsample_*2d_backward for one of F.interpolate's operators.

    Resizing is linear, and rows and columns are independent. So the identity matrix resized along one axis is that
    axis' matrix, and the gradient is the product with the transposed matrices.
    """
    corners = sum(argument.name == "align_corners" for argument in resize._schema.arguments)

    def input_gradient(
        gradient: Tensor, output_size: Sequence[int], input_size: Sequence[int], *options: Any
    ) -> Tensor:
        row_scale, column_scale = (*options[corners:], None, None)[:2]  # trailing scales of None may be missing

        def matrix(outputs: int, inputs: int, scale: float | None) -> Tensor:
            identity = torch.eye(inputs, dtype=gradient.dtype, device=gradient.device)[None, None]
            return resize(identity, [outputs, inputs], *options[:corners], scale, None)[0, 0]

        rows = matrix(output_size[0], input_size[2], row_scale)
        columns = matrix(output_size[1], input_size[3], column_scale)
        return rows.T @ gradient @ columns

    return input_gradient


def antialiased_resize(mode: str) -> Callable[..., Tensor]:
    """Return the decomposition of aten::_upsample_*2d_aa: a product with a constant matrix for each axis."""

    def resize(features: Tensor, output_size: Sequence[int], corners: bool, *scales: float | None) -> Tensor:
        rows, columns = _antialiased_matrices(mode, features, features.shape[2:], output_size, (corners, *scales))
        return rows @ features @ columns.T

    return resize


def antialiased_resize_input_gradient(mode: str) -> Callable[..., Tensor]:
    """Return the decomposition of aten::_upsample_*2d_aa_backward: the product with the transposed matrices."""

    def input_gradient(
        gradient: Tensor, output_size: Sequence[int], input_size: Sequence[int], corners: bool, *scales: float | None
    ) -> Tensor:
        rows, columns = _antialiased_matrices(mode, gradient, input_size[2:], output_size, (corners, *scales))
        return rows.T @ gradient @ columns

    return input_gradient


def _antialiased_matrices(
    mode: str, like: Tensor, inputs: Sequence[int], outputs: Sequence[int], options: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """Return the matrices (outputs, inputs) of antialiased resizing along rows and along columns.

    Each is the identity matrix, resized along one axis by PyTorch itself, outside of what is being traced.
    """
    corners, *scales = options
    resize = {
        "bilinear": aten._upsample_bilinear2d_aa.default,
        "bicubic": aten._upsample_bicubic2d_aa.default,
    }[mode]
    row_scale, column_scale = (*scales, None, None)[:2]
    with _disable_current_modes():

        def matrix(pixels: int, size: int, scale: float | None) -> Tensor:
            identity = torch.eye(pixels, dtype=like.dtype)[None, None]
            return resize(identity, [size, pixels], corners, scale, None)[0, 0].clone()

        return matrix(inputs[0], outputs[0], row_scale), matrix(inputs[1], outputs[1], column_scale)


RESIZING: dict[Any, Callable[..., Any]] = {
    **{backward: resize_input_gradient(forward) for backward, forward in _RESIZES.items()},
    **{backward: antialiased_resize_input_gradient(mode) for backward, (_, mode) in _ANTIALIASED.items()},
    **{forward: antialiased_resize(mode) for forward, mode in _ANTIALIASED.values()},
}
"""Decompositions of resizing operators, as make_fx takes them."""
