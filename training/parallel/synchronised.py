"""Make a training step on part of a batch equal to a step on the whole: its random draws and its batch norm."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from training.common.batch_norm import BatchNormCall
from training.parallel.distributed import ALONE, Shard

_SHARD = ContextVar("shard", default=ALONE)


@contextmanager
def synchronised_steps(shard: Shard) -> Iterator[None]:
    """Make the shard's training steps draw and normalise as if its part were still in the whole batch.

    All processes must do the same steps in the same order inside. It changes nothing for a single process.
    """
    if shard.processes == 1:
        yield
        return
    token = _SHARD.set(shard)
    try:
        with SynchronisedBatchNorm(shard):
            yield
    finally:
        _SHARD.reset(token)


def draw_like(images: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Draw random values for each picture, shaped like the pictures.

    Args:
        images: (N, ...).
        draw: Fills a tensor with random values from torch's global generator and returns it.

    Returns:
        (N, ...). With several processes it is this one's part of the draw for the whole batch.
    """
    shard = _SHARD.get()
    if shard.processes == 1:
        return draw(torch.empty_like(images))
    # Values are drawn in memory order, so the whole batch must have the memory format of the part.
    channels_last = images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)
    whole = torch.empty(
        (len(images) * shard.processes, *images.shape[1:]),
        dtype=images.dtype,
        device=images.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    return shard.rows(draw(whole))


def whole_batch(rows: Tensor) -> Tensor:
    """Return the rows (n, ...) of all processes, (N, ...), in the batch's order.

    It can be differentiated once. A loss of the whole batch that every process computes has the right gradient, because
    gradients are averaged over the processes.
    """
    shard = _SHARD.get()
    if shard.processes == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, shard)
    return gathered.flatten(0, 1)


def average_gradients(tensors: Iterable[Tensor]) -> None:
    """Replace gradients of this process's mean loss by those of the whole batch's, in place."""
    _SHARD.get().average_(tensors)


class SynchronisedBatchNorm(TorchFunctionMode):
    """A mode in which batch norm in training takes its statistics over the batches of all processes.

    It is written by hand because torch.nn.SyncBatchNorm does not run on a CPU and replaces modules by their class. This
    one works for every module that calls torch.nn.functional.batch_norm, and leaves the network as it is. It can be
    differentiated once.

    Args:
        shard: This process's part of the work.
    """

    def __init__(self, shard: Shard):
        super().__init__()
        self.shard = shard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Send batch norm to this module's function and everything else to PyTorch."""
        if func is F.batch_norm:
            return _batch_norm(BatchNormCall(*args, **(kwargs or {})), self.shard)
        return func(*args, **(kwargs or {}))


def _batch_norm(call: BatchNormCall, shard: Shard) -> Tensor:
    """Compute batch norm over all processes."""
    if not call.training:
        return call.as_pytorch_does()
    input, running_mean, running_var, weight, bias, _, momentum, eps = call
    other_dimensions = [0, *range(2, input.dim())]
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    own_variance, own_mean = torch.var_mean(values, dim=other_dimensions, correction=0)
    means, variances = _Gather.apply(torch.stack([own_mean, own_variance]), shard).unbind(1)
    mean = means.mean(0)
    # The parts are equally large. Their own variances miss the spread of their means.
    variance = variances.mean(0) + (means - mean).square().mean(0)
    if running_mean is not None and running_var is not None:
        count = shard.processes * input.numel() // input.shape[1]
        # .data hides the change from autograd, as PyTorch's own batch norm does. Otherwise autograd would refuse to
        # differentiate the first pass, which normalised by these statistics before.
        running_mean.data.lerp_(mean.detach().to(running_mean.dtype), momentum)
        running_var.data.lerp_((variance.detach() * (count / (count - 1))).to(running_var.dtype), momentum)
    factor = torch.rsqrt(variance + eps)
    if weight is not None:
        factor = factor * weight
    shape = [1, -1, *[1] * (input.dim() - 2)]
    normalised = (values - mean.view(shape)) * factor.view(shape)
    if bias is not None:
        normalised = normalised + bias.view(shape)
    return normalised.to(input.dtype)


class _Gather(torch.autograd.Function):
    """Gather one tensor of each process, (...) to (processes, ...), in all of them."""

    @staticmethod
    def forward(context: Any, own: Tensor, shard: Shard) -> Tensor:
        context.shard = shard
        gathered = own.new_zeros((shard.processes, *own.shape))
        gathered[shard.rank] = own
        return shard.sum_(gathered)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # This process's tensor contributed to the losses of all processes.
        return context.shard.sum_(gradient.contiguous().clone())[context.shard.rank], None
