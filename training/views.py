"""How an attack sees a network: functions with the network's exact logits but different derivatives.

The block is nearly invisible to gradient attacks. With its batch norm frozen, a ReLU network is piecewise linear, so
the derivative of its input gradient is zero almost everywhere, although that gradient moves a lot within an epsilon
ball. Differentiating honestly through both passes therefore equals holding the first pass fixed; the smooth view is
the attack that does see the block. Of any other network (smooth activations, layer norm) both passes show it.
"""

import torch
from torch import Tensor

from training.activations import has_relu
from training.model import LogitsFunction, SelfGradientNetwork
from training.piecewise_linear import is_piecewise_linear
from training.second_derivatives import CheapSecondDerivatives
from training.smooth_surrogate import SmoothSurrogate


def full_view(model: SelfGradientNetwork) -> LogitsFunction:
    """The network as it is: derivatives through both passes, by double backward.

    Sees the block of a network that is not piecewise linear; of any other it equals held_view.
    """
    return model


def check_view(view: str, model: SelfGradientNetwork) -> None:
    """raises ValueError for a training attack's view that shows nothing of this network's block that is not free

    By its modules, not by is_piecewise_linear: the self-gradient of an untrained network may be zero everywhere.
    """
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

    For a piecewise linear network this equals full_view at a third of the cost.
    """

    def logits(images: Tensor) -> Tensor:
        if model.block is None:
            return model.plain_logits(images)
        with torch.no_grad():
            gradient = model.self_gradient(images.detach())
        return model.second_pass(images, gradient)

    return logits


def plain_view(model: SelfGradientNetwork, images: Tensor) -> LogitsFunction:
    """The honest derivative, which the paper's attacks and AutoAttack follow, at the lowest price.

    held_view of a piecewise linear network, full_view of any other.

    images: as for is_piecewise_linear
    """
    held = model.block is None or is_piecewise_linear(model, images)
    return held_view(model) if held else full_view(model)


def block_off_view(model: SelfGradientNetwork) -> LogitsFunction:
    """The plain network, block off."""
    return model.plain_logits


def smooth_self_gradient(model: SelfGradientNetwork, images: Tensor, beta: float) -> Tensor:
    """The self-gradient, (N, 3, H, W), as if piecewise linear layers were smooth; it can be differentiated once."""
    # The outer mode sees what the inner one leaves: no ReLU, so none loses its smooth derivative to it.
    with CheapSecondDerivatives(), SmoothSurrogate(beta):
        return model.self_gradient(images)


def smooth_view(model: SelfGradientNetwork, beta: float) -> LogitsFunction:
    """Exact logits; derivatives through the first pass as if its piecewise linear layers were smooth (SmoothSurrogate).

    Smooth activations stay.

    beta: softplus sharpness; 5, 20 and 100 are the usual three
    """

    def logits(images: Tensor) -> Tensor:
        if model.block is None:
            return model.plain_logits(images)
        with torch.no_grad():
            exact = model.self_gradient(images.detach())
        smooth = smooth_self_gradient(model, images, beta)
        # The value of `exact` with the derivative of `smooth`.
        return model.second_pass(images, exact + (smooth - smooth.detach()))

    return logits
