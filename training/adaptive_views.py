"""Two more ways for an attack to see a network, each with the network's exact logits."""

import torch
from torch import Tensor

from training.model import LogitsFunction, SelfGradientNetwork, rms_normalised
from training.views import smooth_self_gradient


def straight_through_view(model: SelfGradientNetwork, beta: float) -> LogitsFunction:
    """Exact logits; backwards the block is the identity times its scale, behind a first pass seen as by smooth_view.

    The block is a steep stack of tanh layers whose derivative nearly vanishes where they saturate, so even a gradient
    that sees the first pass may not get through it: this one steps over the tanh layers. (Stepping over block and
    first pass together is the held view: there the correction's derivative is zero. A correction whose derivative is
    one would only double that gradient, and these attacks use its sign.)

    beta: softplus sharpness of the first pass's derivative
    Source: the straight-through estimator as in Athalye et al., Obfuscated Gradients Give a False Sense of Security
    (2018), section 4.1.
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


def averaged_view(view: LogitsFunction, samples: int, noise: float) -> LogitsFunction:
    """The logits of `view`; derivatives averaged over uniform noise on the images.

    A gradient that jumps from point to point misleads an attack; its mean over a small neighbourhood does so less.

    samples: draws per image (torch's global generator)
    noise:   half-width of the noise, units of pixel intensity
    Source: expectation over transformation, Athalye et al. (2018), section 4.2.
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
