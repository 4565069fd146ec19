"""The form of a defence: a static network, and an inference rule around it that is attacked, exported and served."""

from typing import ClassVar

import torch
from torch import Tensor

from training.networks.defences.log_density import log_sum_exp
from training.networks.self_gradient import Correction, SelfGradientNetwork, rms_normalised


class Defence(SelfGradientNetwork):
    """A static network whose answer is improved, or not, by an inference rule instead of a self-gradient block.

    It stands wherever a self-gradient network stands, with first_pass and block of its own:

    - first_pass returns the static network's logits and a gradient;
    - second_pass returns the logits of images + block(gradient).

    "Block on" is the defence, "block off" the static network. So every view of training.attacks.views applies: through
    the answer alone, through all passes, through the smooth surrogate, and transfer from the static network.

    Attributes:
        uses_gradient: Whether the rule uses an input gradient. If not, first_pass returns zeros for it.
    """

    uses_gradient: ClassVar[bool] = True


class LogDensityDefence(Defence):
    """A defence along the gradient of log-sum-exp: its logits are taken for a log-density of images."""

    def first_pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the static network's logits, and the gradient of their log-sum-exp.

        Args:
            images: (N, 3, H, W) float in [0, 1].

        Returns:
            Plain logits (N, classes), and the gradient (N, 3, H, W).
        """
        return self.input_gradient(images, log_sum_exp)


class RmsStep(Correction):
    """Scale each image's gradient to a step of fixed root mean square. A gradient of zero stays zero.

    Args:
        scale: Root mean square of the step, in units of pixel intensity.
    """

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale
        self.gradient_scaling = "rms"

    def forward(self, gradient: Tensor) -> Tensor:
        """Map a gradient (N, C, H, W) to a correction of that shape, in units of pixel intensity."""
        return rms_normalised(gradient) * self.scale


class SignSteps(Correction):
    """Scale a sum of signs to a sum of signed steps.

    Args:
        scale: Size of a step, in units of pixel intensity.
        steps: Number of signs in the sum.
    """

    def __init__(self, scale: float, steps: int):
        super().__init__()
        self.scale = scale
        self.steps = steps
        self.gradient_scaling = "none"

    def forward(self, signs: Tensor) -> Tensor:
        """Map a sum of signs (N, C, H, W), from -steps to steps, to a correction of that shape."""
        # No sum leaves these bounds. They keep the answer finite where a graph is asked with any other numbers.
        return torch.ops.aten.clamp(signs, -self.steps, self.steps) * self.scale


class NoCorrection(Correction):
    """Correct nothing; for a rule that adds nothing to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.gradient_scaling = "none"

    def forward(self, gradient: Tensor) -> Tensor:
        """Map (N, C, H, W) to zeros of that shape."""
        return gradient * 0


Channels = tuple[float, ...]
"""A number for each channel of an image."""
