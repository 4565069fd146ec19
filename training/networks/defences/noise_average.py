"""A control that uses no gradient: the mean of the answers to noisy copies of the image."""

import torch
from torch import Tensor, nn

from training.networks.defences.defence import Channels, Defence, NoCorrection
from training.networks.errors import ArchitectureError


class NoiseAverage(Defence):
    """Answer with the mean of the logits of a few copies of the image, each with Gaussian noise of its own.

    Taken from the source: Gaussian noise on the image, and one answer from many noisy ones.

    Chosen here: the mean of logits instead of a vote, so that the answer has a derivative. The noise is drawn once and
    kept. So an answer is a fixed function of the image, a graph can hold it, and an attack knows it. There are four
    copies. The deviation is the budget of the attacks, 8/255. The network is not trained with that noise.

    Args:
        backbone: The static network, from normalised images to logits.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.
        image_size: (height, width) of the images, in pixels.
        samples: Number of noisy copies.
        deviation: Standard deviation of the noise, units of pixel intensity.

    Raises:
        ArchitectureError: There is no copy.

    Source: Cohen et al., Certified Adversarial Robustness via Randomized Smoothing (2019), section 3.
    """

    uses_gradient = False
    noise: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        mean: Channels,
        std: Channels,
        *,
        image_size: tuple[int, int],
        samples: int = 4,
        deviation: float = 8 / 255,
    ) -> None:
        if samples < 1:
            raise ArchitectureError(f"an average over noise needs at least one sample, not {samples}")
        super().__init__(backbone, NoCorrection(), mean, std)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("noise", deviation * torch.randn(samples, len(mean), *image_size, generator=generator))

    def first_pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the static network's logits (N, classes), and zeros (N, 3, H, W) for the gradient that is not used."""
        return self.plain_logits(images), self.self_gradient(images)

    def self_gradient(self, images: Tensor) -> Tensor:
        """Return zeros (N, 3, H, W)."""
        return torch.zeros_like(images)

    def second_pass(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Return the mean logits of the noisy copies, (N, classes). The gradient is not looked at."""
        total = self.plain_logits(images + self.noise[0])
        for noise in self.noise[1:]:
            total = total + self.plain_logits(images + noise)
        return total / len(self.noise)
