"""Read a call of batch norm, for modes that put their own function in its place."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class BatchNormCall(NamedTuple):
    """The arguments of torch.nn.functional.batch_norm, with its names, order and defaults.

    A mode makes it of what it was called with: `BatchNormCall(*args, **kwargs)`.
    """

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5

    def as_pytorch_does(self) -> Tensor:
        """Compute it by PyTorch's own function."""
        return F.batch_norm(*self)
