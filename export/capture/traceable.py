"""Replace layers that PyTorch traces wrongly by equivalent calls that it traces correctly."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_LINEAR, _ADAPTIVE_AVG_POOL2D = F.linear, F.adaptive_avg_pool2d


@contextmanager
def traceable_calls() -> Iterator[None]:
    """Make networks compute the same by calls that can be traced for any batch size and written as a graph."""
    with ExitStack() as stack:
        # A fused attention kernel is one operator that no runtime knows, forward or backward.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        # The same holds for the recurrent layers of oneDNN.
        stack.enter_context(_without_onednn())
        stack.enter_context(_TraceableCalls())
        # A TorchFunctionMode does not see calls between PyTorch's own functions, as in multi-head attention.
        for function, replacement in _REPLACEMENTS.items():
            stack.enter_context(mock.patch.object(F, function.__name__, replacement))
        yield


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Switch oneDNN off; torch.backends.mkldnn.flags would set the precision of GPUs, too, and warn of it."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class _TraceableCalls(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _REPLACEMENTS.get(func, func)(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer; torch.func's own fixes the batch size for (N, places, features) with a bias."""
    if input.dim() <= 2:
        return _LINEAR(input, weight, bias)
    return _LINEAR(input.flatten(0, -2), weight, bias).unflatten(0, input.shape[:-1])


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Apply global average pooling as a mean; PyTorch's own sets memory strides, which a graph does not have."""
    if output_size in (1, (1, 1), [1, 1], torch.Size([1, 1])):
        return input.mean(dim=(-2, -1), keepdim=True)
    return _ADAPTIVE_AVG_POOL2D(input, output_size)


_REPLACEMENTS = {_LINEAR: _linear, _ADAPTIVE_AVG_POOL2D: _adaptive_avg_pool2d}
