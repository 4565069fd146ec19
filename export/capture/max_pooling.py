"""Write the gradient of max-pooling by comparisons, which every runtime is fast at.

PyTorch's form adds each element of the gradient at an index that the pooling kept. OpenVINO computes the indices with
its reference kernel: they took 63 % of the time of both passes of a ResNet-18.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

LARGEST_WINDOW = 16
"""Most elements of a window that are compared one by one. Larger windows keep PyTorch's indices."""


def by_comparisons(kernel_size: Sequence[int], dilation: Sequence[int]) -> bool:
    """Return whether the gradient of a max-pooling is written by comparisons."""
    return kernel_size[0] * kernel_size[-1] <= LARGEST_WINDOW and set(dilation) == {1}


def gradient_by_comparisons(
    gradient: Tensor,
    features: Tensor,
    maxima: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """Return the gradient of max-pooling with respect to its input.

    Each window gives its gradient to the first element that equals its maximum, row by row, as PyTorch does. The
    elements of all windows at one place are a map of the windows' size. So a place costs one comparison of such maps.
    Elements of one phase, which have the same remainders by the stride, lie together: they are cut out and put back
    once.

    Args:
        gradient: (N, C, windows down, windows across).
        features: (N, C, H, W).
        maxima: The pooled features, of the gradient's size.
        kernel: Rows and columns of a window.
        stride: Pixels from one window to the next, (rows, columns).
        padding: Pixels added at each edge, (rows, columns).
    """
    sizes = features.shape[2:]
    windows = gradient.shape[2:]
    # Blocks of the stride's size that hold all windows: a window reaches into so many blocks after its own.
    blocks = [windows[i] + (kernel[i] - 1) // stride[i] for i in range(2)]
    after = [blocks[i] * stride[i] - padding[i] - sizes[i] for i in range(2)]
    padded = _resized(features, padding, after, float("-inf"))
    left = gradient
    phases = {
        (row, column): padded[:, :, row :: stride[0], column :: stride[1]]
        for row in range(min(stride[0], kernel[0]))
        for column in range(min(stride[1], kernel[1]))
    }
    parts: dict[tuple[int, int], Tensor] = {}
    places = [(row, column) for row in range(kernel[0]) for column in range(kernel[1])]
    for place in places:
        (row, phase_row), (column, phase_column) = (divmod(place[i], stride[i]) for i in range(2))
        if place == places[-1]:  # the last place takes the rest: all of a window of NaN
            given = left
        else:
            hit = phases[phase_row, phase_column][:, :, row : row + windows[0], column : column + windows[1]] == maxima
            given = left * hit.to(left.dtype)
            left = left - given
        spread = _resized(given, (row, column), (blocks[0] - row - windows[0], blocks[1] - column - windows[1]), 0.0)
        key = phase_row, phase_column
        parts[key] = parts[key] + spread if key in parts else spread
    nothing = torch.zeros_like(spread)
    together = torch.stack(
        [parts.get((row, column), nothing) for row in range(stride[0]) for column in range(stride[1])], 2
    )
    if stride[0] == stride[1]:  # ONNX has an operator for it, three times as fast as a permutation
        whole = F.pixel_shuffle(together.flatten(1, 2), stride[0])
    else:
        in_order = together.view(*features.shape[:2], *stride, *blocks).permute(0, 1, 4, 2, 5, 3)
        whole = in_order.reshape(*features.shape[:2], blocks[0] * stride[0], blocks[1] * stride[1])
    return _resized(whole, [-size for size in padding], [-size for size in after], 0.0)


def _resized(features: Tensor, before: Sequence[int], after: Sequence[int], value: float) -> Tensor:
    """Return features with rows and columns added at their edges, or, for a negative number, taken away.

    Args:
        features: (N, C, H, W).
        before: Rows above and columns to the left.
        after: Rows below and columns to the right.
        value: The values that are added.
    """
    for axis in range(2):
        start, end = max(0, -before[axis]), features.shape[2 + axis] - max(0, -after[axis])
        if start or end < features.shape[2 + axis]:
            features = features.narrow(2 + axis, start, end - start)
    above, to_the_left, below, to_the_right = (max(0, size) for size in (*before, *after))
    if above or to_the_left or below or to_the_right:
        features = aten.constant_pad_nd(features, [to_the_left, to_the_right, above, below], value)
    return features
