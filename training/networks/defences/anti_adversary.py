"""The anti-adversary layer: move the image so that the network grows surer of its own first answer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.defences.defence import Channels, Defence, SignSteps
from training.networks.errors import ArchitectureError
from training.networks.self_gradient import rms_normalised


class AntiAdversary(Defence):
    """Classify image + s, where s lowers the cross-entropy of the network's own first answer by signed gradient steps.

    Taken from the source: the label is that of the unmoved image; s starts at zero; each of two steps of 0.15 goes
    against the sign of the gradient at image + s; neither s nor the result is clipped. The step is in units of pixel
    intensity: the source's networks for CIFAR-10 take pictures in [0, 1] as they are.

    Chosen here: the first step's pass also gives the label, which saves a pass. Each gradient is divided by its root
    mean square before its sign is taken. That changes no sign, and gives the smooth surrogate, which replaces the sign
    by tanh, numbers of size 1.

    Its derivative is zero but for the last pass, as the source's code has it too.

    Args:
        backbone: The static network, from normalised images to logits.
        mean: Per-channel mean of images in [0, 1].
        std: Per-channel standard deviation.
        steps: Number of steps, each a pass and its gradient.
        step_size: Units of pixel intensity.

    Raises:
        ArchitectureError: There is no step.

    Source: Alfarra et al., Combating Adversaries with Anti-Adversaries (2022), algorithm 1 and its authors' code
    (Anti_Adv.py and the options of the README).
    """

    def __init__(
        self, backbone: nn.Module, mean: Channels, std: Channels, *, steps: int = 2, step_size: float = 0.15
    ) -> None:
        if steps < 1:
            raise ArchitectureError(f"an anti-adversary needs at least one step, not {steps}")
        super().__init__(backbone, SignSteps(step_size, steps), mean, std)
        self.steps = steps
        self.step_size = step_size

    def first_pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the static network's logits, and the sum of the steps' signs.

        Args:
            images: (N, 3, H, W) float in [0, 1].

        Returns:
            Plain logits (N, classes), and the sum (N, 3, H, W), from -steps to steps.
        """
        if torch.is_inference_mode_enabled():
            # Autograd refuses tensors made in inference mode, such as the label.
            with torch.inference_mode(False), torch.no_grad():
                return self.first_pass(images.clone())
        plain, gradient = self.input_gradient(images, lambda logits: log_probability(logits, first_answer(logits)))
        answer = first_answer(plain)
        steps = torch.sign(rms_normalised(gradient))
        for _ in range(self.steps - 1):
            moved = images + self.step_size * steps
            _, gradient = self.input_gradient(moved, lambda logits: log_probability(logits, answer))
            steps = steps + torch.sign(rms_normalised(gradient))
        return plain, steps


def first_answer(logits: Tensor) -> Tensor:
    """Return the largest logit's class as ones and zeros, (N, classes), without a derivative."""
    answer = logits.detach().argmax(dim=1, keepdim=True)
    classes = torch.arange(logits.shape[1], device=logits.device)
    return (classes == answer).to(logits.dtype)


def log_probability(logits: Tensor, answer: Tensor) -> Tensor:
    """Return the log-probability of the answers (N, classes), ones and zeros, summed over images."""
    return (F.log_softmax(logits, dim=1) * answer).sum()
