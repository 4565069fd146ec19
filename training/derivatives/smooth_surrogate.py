"""Replace piecewise linear layers by smooth ones, so that an attack sees how the self-gradient changes.

The maximum of several numbers is smoothed to log(sum(exp(beta * x))) / beta, which tends to it as beta grows; of x and
0 that is the softplus. Rectifiers of every kind are written as sums of max(x, 0), pooling is a maximum as it stands.
A sign becomes tanh(beta * x), which tends to it too: defences whose steps are signs are blind spots without it.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

NOT_SMOOTHED: dict[Any, str] = {
    F.threshold: "threshold",
    F.hardshrink: "hardshrink",
    F.softshrink: "softshrink",
    F.rrelu: "rrelu",
    F.max_pool1d: "max_pool1d",
    F.max_pool3d: "max_pool3d",
    F.adaptive_max_pool1d: "adaptive_max_pool1d",
    F.adaptive_max_pool2d: "adaptive_max_pool2d",
    torch.adaptive_max_pool1d: "adaptive_max_pool1d",
    torch.abs: "abs",
    Tensor.abs: "abs",
    torch.clamp: "clamp",
    Tensor.clamp: "clamp",
    torch.clamp_min: "clamp_min",
    Tensor.clamp_min: "clamp_min",
    torch.clip: "clip",
    Tensor.clip: "clip",
    torch.max: "max",
    Tensor.max: "max",
    torch.min: "min",
    Tensor.min: "min",
    torch.amax: "amax",
    Tensor.amax: "amax",
    torch.amin: "amin",
    Tensor.amin: "amin",
    torch.maximum: "maximum",
    torch.minimum: "minimum",
}
"""Piecewise linear calls that are left as they are, with the name for the warning."""


class SurrogateWarning(UserWarning):
    """The smooth surrogate leaves a layer piecewise linear, so an attack through it may be partly blind."""


class SmoothSurrogate(TorchFunctionMode):
    """A mode in which piecewise linear layers compute a smooth version of themselves, as modules and as functions.

    It covers ReLU, ReLU6 and hard tanh, leaky ReLU and PReLU, hard sigmoid, hard swish, 2-d max-pooling and signs.
    Smooth layers are left alone (GELU, SiLU, sigmoid, tanh, ELU, ...). A SurrogateWarning names any other piecewise
    linear call.

    Args:
        beta: Sharpness. Every smooth version tends to the layer as it grows.
    """

    def __init__(self, beta: float):
        super().__init__()
        self.beta = beta

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Smooth what can be smoothed, and warn about what stays piecewise linear."""
        kwargs = kwargs or {}
        if func in _SMOOTH:
            return _SMOOTH[func](self.beta, *args, **kwargs)
        if func in NOT_SMOOTHED:
            warnings.warn(
                f"the smooth surrogate leaves torch's {NOT_SMOOTHED[func]} piecewise linear; an attack through it may "
                "see less of the block than there is",
                SurrogateWarning,
                stacklevel=2,
            )
        return func(*args, **kwargs)


def _relu(beta: float, input: Tensor, inplace: bool = False) -> Tensor:
    return F.softplus(input, beta=beta)


def _sign(beta: float, input: Tensor) -> Tensor:
    return torch.tanh(beta * input)


def _hardtanh(beta: float, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    return min_val + F.softplus(input - min_val, beta=beta) - F.softplus(input - max_val, beta=beta)


def _relu6(beta: float, input: Tensor, inplace: bool = False) -> Tensor:
    return _hardtanh(beta, input, 0.0, 6.0)


def _leaky_relu(beta: float, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return negative_slope * input + (1 - negative_slope) * F.softplus(input, beta=beta)


def _prelu(beta: float, input: Tensor, weight: Tensor) -> Tensor:
    slope = weight if input.dim() < 2 else weight.view(-1, *[1] * (input.dim() - 2))
    return slope * input + (1 - slope) * F.softplus(input, beta=beta)


def _hardsigmoid(beta: float, input: Tensor, inplace: bool = False) -> Tensor:
    return _relu6(beta, input + 3) / 6


def _hardswish(beta: float, input: Tensor, inplace: bool = False) -> Tensor:
    return input * _hardsigmoid(beta, input)


def _max_pool2d(  # noqa: PLR0913  # PyTorch's signature, after beta
    beta: float,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    kernel, dilations, paddings = _pair(kernel_size), _pair(dilation), _pair(padding)
    strides = _pair(stride) if stride else kernel
    with torch.no_grad():  # gives the output's size by PyTorch's own rules for ceil_mode
        shape = F.max_pool2d(input, kernel, strides, paddings, dilations, ceil_mode).shape[-2:]
    # Pad so far beyond every edge that all windows fit. exp(beta * lowest) is 0, so the padding never counts.
    reach = [(shape[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 for i in range(2)]
    beyond = [max(0, reach[i] - paddings[i] - input.shape[-2 + i]) for i in range(2)]
    lowest = torch.finfo(input.dtype).min / (2 * max(beta, 1))
    padded = F.pad(input, [paddings[1], beyond[1], paddings[0], beyond[0]], value=lowest)
    windows = F.unfold(padded[..., : reach[0], : reach[1]], kernel, dilations, stride=strides)
    windows = windows.view(*input.shape[:-2], kernel[0] * kernel[1], *shape)
    return torch.logsumexp(beta * windows, dim=-3) / beta


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (tuple(value) * 2)[:2]


_SMOOTH: dict[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), _relu),
    **dict.fromkeys((F.hardtanh, F.hardtanh_), _hardtanh),
    **dict.fromkeys((torch.sign, Tensor.sign), _sign),
    F.relu6: _relu6,
    **dict.fromkeys((F.leaky_relu, F.leaky_relu_), _leaky_relu),
    **dict.fromkeys((F.prelu, torch.prelu, Tensor.prelu), _prelu),
    F.hardsigmoid: _hardsigmoid,
    F.hardswish: _hardswish,
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_pool2d),
}
