"""A gradient denoiser: classify what Tweedie's formula leaves of the image, with the network's own log-density."""

import torch
from torch import Tensor, nn

from training.networks.defences.defence import Channels, Defence
from training.networks.defences.log_density import log_sum_exp
from training.networks.self_gradient import Correction


class TweedieStep(Correction):
    """Multiply the gradient of a log-density by the noise's variance. A gradient of zero stays zero.

    Args:
        deviation: Standard deviation of the noise, in units of pixel intensity.
    """

    def __init__(self, deviation: float):
        super().__init__()
        self.scale = deviation
        self.gradient_scaling = "none"

    def forward(self, gradient: Tensor) -> Tensor:
        """Map a gradient (N, C, H, W) to a correction of that shape, in units of pixel intensity."""
        # A mean of images is no farther from one than black from white. The operator itself, because the smooth
        # surrogate warns of functions named clamp, and need not smooth this one.
        return torch.ops.aten.clamp(gradient * self.scale**2, -1, 1)


class GradientDenoiser(Defence):
    """Classify the image without its noise, by Tweedie's formula: image + deviation^2 times a log-density's gradient.

    Taken from the source: a logit is the logarithm of the joint density of an image and its class, but for a constant.
    So the log-sum-exp of the logits is that of the image, and its gradient gives the mean of all images that noise may
    have led to this one. The network is trained for both, by --method gradient-denoiser.

    Chosen here: to classify that mean. The source denoises and classifies, and does not do one for the other. No value
    of the correction exceeds 1, the range of an intensity.

    Around a network that was not trained for it, it does almost nothing. The gradient is about 1e-3 there. That of a
    density with such noise is about 1 / deviation, 32.

    Its derivative goes through both passes: log-sum-exp makes the gradient a smooth function of the logits.

    Args:
        backbone: The static network, from normalised images to logits.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.
        deviation: Standard deviation of the noise that the network was trained with, units of pixel intensity.

    Source: Thiry and Guth, Classification-Denoising Networks (2024).
    """

    def __init__(self, backbone: nn.Module, mean: Channels, std: Channels, *, deviation: float = 8 / 255) -> None:
        super().__init__(backbone, TweedieStep(deviation), mean, std)

    def first_pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the static network's logits, and the gradient of their log-sum-exp.

        Args:
            images: (N, 3, H, W) float in [0, 1].

        Returns:
            Plain logits (N, classes), and the gradient (N, 3, H, W).
        """
        return self.input_gradient(images, log_sum_exp)
