"""Cheaper second derivatives of the first pass, for training and for the smooth surrogate.

Training differentiates the self-gradient once more, for the parameters. Attacks that see the block do so for the image.
PyTorch's own second derivatives are right but cost up to twice as much:
- It carries gradients of zero back through the whole forward pass (the derivative of a ReLU's mask).
- It takes batch norm apart into some forty elementwise operations.
- It computes the gradient of a convolution's weights by a convolution with a kernel as large as the picture.

This module states the second derivatives of these three layers directly, which no library does. Values and first
derivatives come from the same kernels as without it, to the last bit.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from training.common.batch_norm import BatchNormCall

aten = torch.ops.aten
_RELU_CALLS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class CheapSecondDerivatives(TorchFunctionMode):
    """A mode in which ReLU, frozen batch norm and convolutions without bias have cheap second derivatives.

    It is for code that differentiates by the input and then, once, by anything. All other calls stay PyTorch's.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Send the three layers to this module's functions and everything else to PyTorch."""
        kwargs = kwargs or {}
        if func in _RELU_CALLS:
            return _ReLU.apply(args[0] if args else kwargs["input"])
        if func is F.batch_norm:
            return _batch_norm(BatchNormCall(*args, **kwargs))
        if func in (F.conv2d, torch.conv2d):
            return _conv2d(*args, **kwargs)
        return func(*args, **kwargs)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor) -> Tensor:
        return torch.relu(features)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        context.save_for_backward(output)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (output,) = context.saved_tensors
        return _ReLUInputGradient.apply(gradient, output.detach())


class _ReLUInputGradient(torch.autograd.Function):
    """The gradient where the ReLU's input is positive. That mask has no derivative of its own."""

    @staticmethod
    def forward(gradient: Tensor, output: Tensor) -> Tensor:
        return aten.threshold_backward(gradient, output, 0)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        context.save_for_backward(inputs[1])

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (output,) = context.saved_tensors
        return aten.threshold_backward(gradient, output, 0), None


def _batch_norm(call: BatchNormCall) -> Tensor:
    if call.training or call.running_mean is None or call.running_var is None:
        return call.as_pytorch_does()
    # The second pass updates the statistics before the first one is differentiated, so this copies what the first one
    # saw. PyTorch does not notice the change by itself: its kernel does not raise the tensors' version.
    running_mean, running_var = call.running_mean.clone(), call.running_var.clone()
    if call.weight is None or call.bias is None:
        return call._replace(running_mean=running_mean, running_var=running_var).as_pytorch_does()
    return _BatchNorm.apply(call.input, call.weight, call.bias, running_mean, running_var, call.eps)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        features: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, eps: float
    ) -> Tensor:
        return F.batch_norm(features, running_mean, running_var, weight, bias, eps=eps)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        features, weight, _, running_mean, running_var, context.eps = inputs
        context.save_for_backward(features, weight, running_mean, running_var)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, running_mean, running_var = context.saved_tensors
        by_features, *of_parameters = context.needs_input_grad[:3]
        input_gradient = None
        if by_features:
            input_gradient = _BatchNormInputGradient.apply(
                gradient, features.detach(), weight, running_var, context.eps
            )
        weight_gradient = bias_gradient = None
        if any(of_parameters):
            _, weight_gradient, bias_gradient = _batch_norm_backward(
                gradient, features, weight, (running_mean, running_var), context.eps, [False, *of_parameters]
            )
        return input_gradient, weight_gradient, bias_gradient, None, None, None


class _BatchNormInputGradient(torch.autograd.Function):
    """Batch norm's input gradient, gradient * weight / sqrt(running_var + eps). It does not depend on the features."""

    @staticmethod
    def forward(gradient: Tensor, features: Tensor, weight: Tensor, running_var: Tensor, eps: float) -> Tensor:
        zeros = torch.zeros_like(running_var)
        return _batch_norm_backward(gradient, features, weight, (zeros, running_var), eps, [True, False, False])[0]

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        gradient, _, weight, running_var, context.eps = inputs
        context.save_for_backward(gradient, weight, running_var)

    @staticmethod
    @once_differentiable
    def backward(context: Any, second: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight, running_var = context.saved_tensors
        # Linear in the gradient, as batch norm of mean zero is in its features. So batch norm's own backward serves.
        by_gradient, by_weight, _ = _batch_norm_backward(
            second, gradient, weight, (torch.zeros_like(running_var), running_var), context.eps, [True, True, False]
        )
        return by_gradient, None, by_weight, None, None


def _batch_norm_backward(  # PyTorch's signature
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    statistics: tuple[Tensor, Tensor],
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of features, weight and bias that are wanted; statistics are running mean and variance."""
    # A frozen layer saves no statistics of its batch. CUDA's kernel wants empty tensors for them and refuses None.
    saved = statistics[0].new_empty(0)
    return aten.native_batch_norm_backward(gradient, features, weight, *statistics, saved, saved, False, eps, wanted)


Pair = tuple[int, int]


def _conv2d(  # noqa: PLR0913  # PyTorch's signature
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Compute torch.nn.functional.conv2d, whose parameter names these are."""
    if bias is not None or isinstance(padding, str):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    device_type = input.device.type
    if torch.is_autocast_enabled(device_type):
        # Autocast would cast inside conv2d. The tensors saved here would then not be the ones computed with.
        dtype = torch.get_autocast_dtype(device_type)
        input, weight = input.to(dtype), weight.to(dtype)
    return _Convolution.apply(input, weight, (_pair(stride), _pair(padding), _pair(dilation), groups))


def _pair(value: int | Pair) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


Geometry = tuple[list[int], list[int], list[int], int]
"""A convolution's stride, padding, dilation and groups."""


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(features: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        return F.conv2d(features, weight, None, *geometry)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        features, weight, context.geometry = inputs
        context.save_for_backward(features, weight)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = context.saved_tensors
        by_features, by_weight, _ = context.needs_input_grad
        input_gradient = weight_gradient = None
        if by_features:
            input_gradient = _ConvolutionInputGradient.apply(gradient, features.detach(), weight, context.geometry)
        if by_weight:
            _, weight_gradient = _convolution_backward(gradient, features, weight, context.geometry, [False, True])
        return input_gradient, weight_gradient, None


class _ConvolutionInputGradient(torch.autograd.Function):
    """A convolution's input gradient, the transposed convolution. It uses only the shape of the features."""

    @staticmethod
    def forward(gradient: Tensor, features: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        return _convolution_backward(gradient, features, weight, geometry, [True, False])[0]

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        gradient, _, weight, context.geometry = inputs
        context.save_for_backward(gradient, weight)

    @staticmethod
    @once_differentiable
    def backward(context: Any, second: Tensor) -> tuple[Tensor | None, ...]:
        gradient, weight = context.saved_tensors
        by_gradient, _, by_weight, _ = context.needs_input_grad
        # <second, transposed(gradient)> = <convolution(second), gradient>: an ordinary convolution of `second`.
        gradients: list[Tensor | None] = [None, None]
        if by_gradient:
            gradients[0] = F.conv2d(second, weight, None, *context.geometry)
        if by_weight:
            gradients[1] = _convolution_backward(gradient, second, weight, context.geometry, [False, True])[1]
        return gradients[0], None, gradients[1], None


def _convolution_backward(
    gradient: Tensor, features: Tensor, weight: Tensor, geometry: Geometry, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    stride, padding, dilation, groups = geometry
    by_features, by_weight, _ = aten.convolution_backward(
        gradient, features, weight, None, stride, padding, dilation, False, [0, 0], groups, [*wanted, False]
    )
    return by_features, by_weight
