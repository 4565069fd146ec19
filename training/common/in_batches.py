"""Compute something for many pictures, a batch at a time, where all at once would not fit into memory."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_batches(function: Callable[..., Tensor], *tensors: Tensor, batch_size: int) -> Tensor:
    """Return `function` of all pictures, computed for at most `batch_size` of them at once.

    Args:
        function: Maps tensors (n, ...) to a tensor (n, ...). Each picture's values must depend on that picture alone.
        *tensors: Its arguments for all pictures, (N, ...) each, N at least 1.
        batch_size: Pictures at once.

    Returns:
        (N, ...).
    """
    parts = zip(*(tensor.split(batch_size) for tensor in tensors), strict=True)
    return torch.cat([function(*part) for part in parts])


def first_pass_in_batches(
    first_pass: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Return what SelfGradientNetwork.first_pass returns for many images, computed for `batch_size` at once.

    Args:
        first_pass: The network's method.
        images: (N, 3, H, W).
        batch_size: Pictures at once.

    Returns:
        Logits (N, classes) and gradients (N, 3, H, W).
    """
    logits, gradients = zip(*(first_pass(some) for some in images.split(batch_size)), strict=True)
    return torch.cat(logits), torch.cat(gradients)
