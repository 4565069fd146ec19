"""Compute losses in enough precision."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 where it is in that."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
