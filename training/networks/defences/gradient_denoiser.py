"""A gradient denoiser: classify what Tweedie's formula leaves of the image, with the network's own log-density."""

import torch
from torch import Tensor, nn

from training.networks.defences.defence import Channels, LogDensityDefence
from training.networks.self_gradient import Correction


class TweedieStep(Correction):
    """Take the gradient of a log-density, in units of the noise's variance, for the step that it is.

    Args:
        share: Share of the step that is taken.
    """

    def __init__(self, share: float):
        super().__init__()
        self.scale = share
        self.gradient_scaling = "none"

    def forward(self, gradient: Tensor) -> Tensor:
        """Map a gradient (N, C, H, W) to a correction of that shape, in units of pixel intensity."""
        # A mean of images is no farther from one than black from white. The operator itself, because the smooth
        # surrogate warns of functions named clamp, and need not smooth this one.
        return torch.ops.aten.clamp(gradient * self.scale, -1, 1)


class GradientDenoiser(LogDensityDefence):
    """Classify the image without its noise, by Tweedie's formula: image plus the gradient of log-sum-exp.

    Taken from the source: a logit is the logarithm of the joint density of an image and its class, but for a constant.
    So the log-sum-exp of the logits is the image's log-density. Its gradient gives the mean of all images that noise
    may have turned into this one. The network is trained for both, by --method gradient-denoiser.

    Chosen here: to classify that mean, because the source denoises and classifies, and does not do one for the other.
    The unit of the log-density is the variance of the noise, so that the gradient is the whole step; see
    training.methods.gradient_denoiser. No value of the correction exceeds 1, the range of an intensity.

    Around a network that was not trained for it, it is a step of some size to lower energy, and removes no noise.

    Its derivative goes through both passes: log-sum-exp makes the gradient a smooth function of the logits.

    Args:
        backbone: The static network, from normalised images to logits.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.
        share: Share of the step that is taken; 1 is Tweedie's formula.

    Source: Thiry and Guth, Classification-Denoising Networks (2024).
    """

    def __init__(self, backbone: nn.Module, mean: Channels, std: Channels, *, share: float = 1.0) -> None:
        super().__init__(backbone, TweedieStep(share), mean, std)
