"""Many pictures, a few at a time: what would not fit into memory all at once."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_batches(function: Callable[..., Tensor], *tensors: Tensor, batch_size: int) -> Tensor:
    """`function` of all pictures, worked out for at most `batch_size` of them at once.

    function: tensors (n, ...) to a tensor (n, ...), each picture's values from that picture alone
    tensors:  (N, ...) each, N at least 1
    returns:  (N, ...)
    """
    parts = zip(*(tensor.split(batch_size) for tensor in tensors), strict=True)
    return torch.cat([function(*part) for part in parts])


def first_pass_in_batches(
    first_pass: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """SelfGradientNetwork.first_pass: logits (N, classes) and gradients (N, 3, H, W) of images (N, 3, H, W)."""
    logits, gradients = zip(*(first_pass(some) for some in images.split(batch_size)), strict=True)
    return torch.cat(logits), torch.cat(gradients)
