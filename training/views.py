"""How an attack sees a network: functions with the network's exact logits but different derivatives.

The block is nearly invisible to gradient attacks. With its batch norm frozen, a ReLU network is piecewise linear, so
the derivative of its input gradient is zero almost everywhere, although that gradient moves a lot within an epsilon
ball. Differentiating honestly through both passes therefore equals holding the first pass fixed; the smooth view is
the attack that does see the block.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from training.activations import has_relu
from training.model import LogitsFunction, SelfGradientNetwork

_RELU_CALLS = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class SmoothReLU(TorchFunctionMode):
    """Within, every ReLU computes softplus(beta * x) / beta instead, in modules and functional calls alike.

    beta: sharpness; softplus tends to ReLU as it grows
    """

    def __init__(self, beta: float):
        super().__init__()
        self.beta = beta

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RELU_CALLS:
            return F.softplus(args[0] if args else kwargs["input"], beta=self.beta)
        return func(*args, **(kwargs or {}))


def full_view(model: SelfGradientNetwork) -> LogitsFunction:
    """The network as it is: derivatives through both passes, by double backward.

    Sees the block of a network with smooth activations (training.activations); of a ReLU network it equals held_view.
    """
    return model


def check_view(view: str, model: SelfGradientNetwork) -> None:
    """raises ValueError for a training attack's view that shows nothing of this network's block that is not free"""
    if view == "full" and has_relu(model.backbone):
        raise ValueError(
            "--attack-view full equals held for a backbone with ReLUs, at three times the cost; add a smooth "
            "--activation such as silu, or pass --attack-view smooth"
        )
    if view == "smooth" and model.block is not None and not has_relu(model.backbone):
        raise ValueError(
            "--attack-view smooth replaces ReLUs, and this backbone has none: pass --attack-view full, which sees the "
            "block as it is"
        )


def held_view(model: SelfGradientNetwork) -> LogitsFunction:
    """The self-gradient held fixed at each image: derivatives through the second pass alone.

    For a network whose only nonlinearities are piecewise linear this equals full_view at a third of the cost.
    """

    def logits(images: Tensor) -> Tensor:
        if model.block is None:
            return model.plain_logits(images)
        with torch.no_grad():
            gradient = model.self_gradient(images.detach())
        return model.second_pass(images, gradient)

    return logits


def block_off_view(model: SelfGradientNetwork) -> LogitsFunction:
    """The plain network, block off."""
    return model.plain_logits


def smooth_view(model: SelfGradientNetwork, beta: float) -> LogitsFunction:
    """Exact logits; derivatives through the first pass as if its ReLUs were softplus. Smooth activations stay.

    beta: softplus sharpness; 5, 20 and 100 are the usual three
    """

    def logits(images: Tensor) -> Tensor:
        if model.block is None:
            return model.plain_logits(images)
        with torch.no_grad():
            exact = model.self_gradient(images.detach())
        with SmoothReLU(beta):
            smooth = model.self_gradient(images)
        # The value of `exact` with the derivative of `smooth`.
        return model.second_pass(images, exact + (smooth - smooth.detach()))

    return logits
