"""Show a network to an attack: functions with the network's exact logits but different derivatives.

The block is nearly invisible to gradient attacks. With its batch norm frozen, a ReLU network is piecewise linear.
The derivative of its input gradient is zero almost everywhere, although that gradient moves a lot within an epsilon
ball. Differentiating honestly through both passes therefore equals holding the first pass fixed; the smooth view is
the attack that does see the block. Any other network (smooth activations, layer norm) shows it through both passes.
"""

import torch
from torch import Tensor

from training.attacks.names import AttackError
from training.derivatives.double_backward import CheapSecondDerivatives
from training.derivatives.piecewise_linear import is_piecewise_linear
from training.derivatives.smooth_surrogate import SmoothSurrogate
from training.networks.activations import has_relu
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork, probability_margin, rms_normalised


def full_view(model: SelfGradientNetwork) -> LogitsFunction:
    """Return the network as it is: derivatives through both passes, by double backward.

    It shows the block of a network that is not piecewise linear; for a piecewise linear one it equals held_view.
    """
    return model


def check_view(view: str, model: SelfGradientNetwork) -> None:
    """Refuse a training attack's view that shows no more of this network's block than a cheaper one.

    It goes by the modules and not by is_piecewise_linear, because the self-gradient of an untrained network may be zero
    everywhere.

    Raises:
        AttackError: The view equals a cheaper one on this network.
    """
    if view == "full" and has_relu(model.backbone):
        raise AttackError(
            "--attack-view full equals held for a backbone with ReLUs, at three times the cost; add a smooth "
            "--activation such as silu, or pass --attack-view smooth"
        )
    if view == "smooth" and model.block is not None and not has_relu(model.backbone):
        raise AttackError(
            "--attack-view smooth replaces ReLUs, and this backbone has none: pass --attack-view full, which sees the "
            "block as it is"
        )


def held_view(model: SelfGradientNetwork) -> LogitsFunction:
    """Return the network with its self-gradient held fixed at each image: derivatives through the second pass alone.

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
    """Return the network with its honest derivative, which the paper's attacks and AutoAttack follow.

    That is held_view for a piecewise linear network, where it is the cheaper of two equals, and full_view for any
    other.

    Args:
        model: The network.
        images: (N, 3, H, W), pictures that is_piecewise_linear tries the network with.
    """
    return full_view(model) if plain_is_full(model, images) else held_view(model)


def plain_is_full(model: SelfGradientNetwork, images: Tensor) -> bool:
    """Return whether plain_view goes through both passes.

    Args:
        model: See plain_view.
        images: See plain_view.
    """
    return model.block is not None and not is_piecewise_linear(model, images)


def first_pass_view(model: SelfGradientNetwork) -> LogitsFunction:
    """Return the network with its block off: the first pass alone."""
    return model.plain_logits


def smooth_self_gradient(model: SelfGradientNetwork, images: Tensor, beta: float) -> Tensor:
    """Return the self-gradient, (N, 3, H, W), as if piecewise linear layers were smooth.

    It can be differentiated once.
    """
    # The outer mode sees what the inner one leaves: no ReLU, so none loses its smooth derivative to it.
    with CheapSecondDerivatives(), SmoothSurrogate(beta):
        return model.self_gradient(images)


def smooth_view(model: SelfGradientNetwork, beta: float) -> LogitsFunction:
    """Return exact logits with derivatives through the first pass as if its piecewise linear layers were smooth.

    SmoothSurrogate replaces the layers; smooth activations stay.

    Args:
        model: The network.
        beta: Softplus sharpness; 5, 20 and 100 are the usual three.
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


def straight_through_view(model: SelfGradientNetwork, beta: float) -> LogitsFunction:
    """Return exact logits with derivatives that step over the block's tanh layers.

    Backwards the block is the identity times its scale, and the first pass before it is that of smooth_view.

    The block is a steep stack of tanh layers, whose derivative nearly vanishes where they saturate. Even a gradient
    that sees the first pass may not get through them, so this one steps over them. (Stepping over block and first pass
    together is the held view: there the correction's derivative is zero. A correction whose derivative is
    one would only double that gradient, and these attacks use its sign.)

    Source: the straight-through estimator as in Athalye et al., Obfuscated Gradients Give a False Sense of Security
    (2018), section 4.1.

    Args:
        model: The network.
        beta: Softplus sharpness of the first pass's derivative.
    """

    def logits(images: Tensor) -> Tensor:
        if model.block is None:
            return model.plain_logits(images)
        with torch.no_grad():
            correction = model.block(model.self_gradient(images.detach()))
        smooth = smooth_self_gradient(model, images, beta)
        if model.block.gradient_scaling == "rms":
            smooth = rms_normalised(smooth)
        identity = model.block.scale * smooth
        return model.plain_logits(images + correction + (identity - identity.detach()))

    return logits


def gate_view(model: SelfGradientNetwork, corrected: LogitsFunction) -> LogitsFunction:
    """Return self_gradient="auto" with the derivatives of the side that the gate picks for each image.

    That is the honest derivative: the gate itself is a step, which has none.

    Args:
        model: A network with a threshold.
        corrected: The network with its block on, as the attack sees it.
    """

    def logits(images: Tensor) -> Tensor:
        plain = model.plain_logits(images)
        chosen = model.needs_second_pass(plain.detach())
        if not chosen.any():
            return plain
        return plain.index_put((chosen,), corrected(images[chosen]).to(plain.dtype))

    return logits


GATE_WIDTH = 0.05
"""Width of the smooth gate, in units of the margin: so far from the threshold it is still at a fourth of its slope."""


def smooth_gate_view(model: SelfGradientNetwork, corrected: LogitsFunction) -> LogitsFunction:
    """Return the exact logits of self_gradient="auto" with derivatives through a smooth gate.

    Backwards the answer is a mixture of both sides, whose weights are a sigmoid of the margin's distance to the
    threshold. So an attack sees what crossing the threshold would bring, and how to get there.

    Args:
        model: A network with a threshold.
        corrected: The network with its block on, as the attack sees it.
    """
    exact = gate_view(model, corrected)

    def logits(images: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return exact(images)
        if model.auto_margin is None:
            raise ValueError("a network without auto_margin has no gate")
        plain, both = model.plain_logits(images), corrected(images)
        weight = torch.sigmoid((model.auto_margin - probability_margin(plain)) / GATE_WIDTH)[:, None]
        mixture = weight * both + (1 - weight) * plain
        answer = torch.where(model.needs_second_pass(plain.detach())[:, None], both, plain)
        return answer.detach() + (mixture - mixture.detach())

    return logits


def averaged_view(view: LogitsFunction, samples: int, noise: float) -> LogitsFunction:
    """Return the logits of `view` with derivatives averaged over uniform noise on the images.

    A gradient that jumps from point to point misleads an attack; its mean over a small neighbourhood does so less.

    Source: expectation over transformation, Athalye et al. (2018), section 4.2.

    Args:
        view: The network as the attack would see it.
        samples: Draws for each image, from torch's global generator.
        noise: Half-width of the noise, units of pixel intensity.
    """

    def logits(images: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return view(images)
        with torch.no_grad():
            exact = view(images)
        total = torch.zeros_like(exact)
        for _ in range(samples):
            total = total + view(images + torch.empty_like(images).uniform_(-noise, noise)) / samples
        return exact + (total - total.detach())

    return logits
