"""L-inf gradient attacks: FGSM, PGD, and PGD on Carlini and Wagner's margin loss.

Every attack takes a function from images to logits and returns images within the epsilon ball and [0, 1].
training.attacks.views has such functions, one for each way in which an attack may see a self-gradient network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from training.common.precision import at_least_float32
from training.networks.self_gradient import LogitsFunction
from training.parallel.synchronised import draw_like

AttackLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits (N, classes) and labels (N) to the loss of each image (N), which the attacker raises."""

Start = Literal["image", "uniform", "near"]
"""The starting point of PGD: the image, a uniform draw from the ball, or a normal draw of standard deviation 0.001
around the image. The last is for losses that have no gradient at the image."""
NOISE_SCALE = 2.0
"""Radius of N-FGSM's noise in units of eps, as in its source."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each image.

    Args:
        logits: (N, classes).
        labels: (N), or (N, classes) shares of mixed labels.

    Returns:
        (N)
    """
    return F.cross_entropy(at_least_float32(logits), labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the highest wrong logit minus the right one; it is above zero where the answer is wrong.

    Source: Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks (2017), f_6 without its cap.

    Args:
        logits: (N, classes).
        labels: (N).

    Returns:
        (N)
    """
    wrong, right = wrong_and_right(logits.float(), labels)
    return wrong - right


def wrong_and_right(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest wrong score and the right one of each image.

    Args:
        scores: (N, classes), logits or probabilities.
        labels: (N).

    Returns:
        (N) and (N)
    """
    right = scores.gather(1, labels[:, None]).squeeze(1)
    return scores.scatter(1, labels[:, None], float("-inf")).amax(dim=1), right


def ball(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest images (N, 3, H, W) of the L-inf ball of radius eps, within [0, 1]."""
    return (images - eps).clamp(min=0), (images + eps).clamp(max=1)


@dataclass(frozen=True)
class ProjectedGradientAscent:
    """PGD: gradient ascent on the loss, projected into the L-inf ball and into [0, 1] after each step.

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (2018).

    Attributes:
        eps: Radius of the ball, units of pixel intensity.
        steps: Number of steps.
        step_size: Units of pixel intensity.
        loss: The loss that is raised.
        start: The first iterate; random ones are drawn from torch's global generator.
        keep_best: Return each image's first iterate that is classified wrongly, or else the one of highest margin, the
            start included; False returns the last iterate. With it, more steps from the same start never raise
            accuracy, and a fooled image costs no more steps. It costs one more forward pass.
    """

    eps: float
    steps: int
    step_size: float
    loss: AttackLoss = cross_entropy
    start: Start = "uniform"
    keep_best: bool = True

    def perturb(
        self, logits_function: LogitsFunction, images: Tensor, labels: Tensor, prior: Tensor | None = None
    ) -> Tensor:
        """Return attacked images.

        Args:
            logits_function: The network as the attack sees it.
            images: (N, 3, H, W) in [0, 1].
            labels: (N).
            prior: (N, 3, H, W), a perturbation to start from instead of `start`.

        Returns:
            (N, 3, H, W), detached.
        """
        images = images.detach()
        low, high = ball(images, self.eps)
        current = self.first_iterate(images, prior)
        best, best_margin = current.clone(), torch.full(labels.shape[:1], float("-inf"), device=images.device)
        # Indices of the images still under attack: all, or with keep_best those that are not fooled yet.
        active = torch.arange(len(labels), device=images.device)
        for _ in range(self.steps):
            logits, gradient = loss_gradient(logits_function, current[active], labels[active], self.loss)
            if self.keep_best:
                margins = margin(logits, labels[active])
                _keep_better(best, best_margin, current, margins, active)
                active, gradient = active[margins <= 0], gradient[margins <= 0]
                if len(active) == 0:
                    return best
            moved = current[active] + self.step_size * gradient.sign()
            current[active] = torch.clamp(moved, low[active], high[active])
        if not self.keep_best:
            return current
        with torch.no_grad():
            margins = margin(logits_function(current[active]), labels[active])
        _keep_better(best, best_margin, current, margins, active)
        return best

    def first_iterate(self, images: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return where the attack starts (N, 3, H, W). The arguments are those of perturb."""
        low, high = ball(images, self.eps)
        if prior is not None:
            noise = prior
        elif self.start == "uniform":
            noise = draw_like(images, lambda values: values.uniform_(-self.eps, self.eps))
        elif self.start == "near":
            noise = draw_like(images, lambda values: values.normal_(0, 0.001))
        else:
            return images.clone()
        return torch.clamp(images + noise, low, high)


def best_of_restarts(
    attack: Callable[[Tensor, Tensor], Tensor],
    logits_function: LogitsFunction,
    images: Tensor,
    labels: Tensor,
    restarts: int,
) -> Tensor:
    """Run an attack with a random start again and again, and keep each image's result of highest margin.

    Args:
        attack: Maps images and labels to attacked images. It is run on all images first, then on those that are not
            fooled yet.
        logits_function: The network that margins are taken of.
        images: (N, 3, H, W) in [0, 1].
        labels: (N).
        restarts: How often the attack is run, at least 1.

    Returns:
        (N, 3, H, W), detached.
    """
    best = attack(images, labels)
    for _ in range(restarts - 1):
        with torch.no_grad():
            margins = margin(logits_function(best), labels)
        active = (margins <= 0).nonzero().squeeze(1)
        if len(active) == 0:
            break
        again = attack(images[active], labels[active])
        with torch.no_grad():
            improved = margin(logits_function(again), labels[active]) > margins[active]
        best[active[improved]] = again[improved]
    return best


def fgsm(logits_function: LogitsFunction, images: Tensor, labels: Tensor, *, eps: float) -> Tensor:
    """Return the images after one step of size eps along the sign of the loss gradient.

    Source: Goodfellow et al., Explaining and Harnessing Adversarial Examples (2015).

    Args:
        logits_function: The network as the attack sees it.
        images: (N, 3, H, W) in [0, 1].
        labels: (N).
        eps: Size of the step, units of pixel intensity.

    Returns:
        (N, 3, H, W), detached.
    """
    one_step = ProjectedGradientAscent(eps=eps, steps=1, step_size=eps, start="image", keep_best=False)
    return one_step.perturb(logits_function, images, labels)


def noise_fgsm(
    logits_function: LogitsFunction, images: Tensor, labels: Tensor, *, eps: float, noise_scale: float = NOISE_SCALE
) -> Tensor:
    """Return the images of N-FGSM, a training attack: one FGSM step from a noisier image, not projected back.

    Source: de Jorge et al., Make Some Noise: Reliable and Efficient Single-Step Adversarial Training (2022), a
    remedy for the catastrophic overfitting of one-step attacks that costs nothing.

    Args:
        logits_function: The network as the attack sees it.
        images: (N, 3, H, W) in [0, 1].
        labels: (N), or (N, classes) shares of mixed labels.
        eps: Size of the step, units of pixel intensity.
        noise_scale: The noise is uniform in +-noise_scale * eps.

    Returns:
        (N, 3, H, W) in [0, 1], detached, within (1 + noise_scale) * eps: outside the eps ball on purpose.
    """
    images = images.detach()
    noisy = noisy_start(images, noise_scale * eps)
    _, gradient = loss_gradient(logits_function, noisy, labels, cross_entropy)
    return (noisy + eps * gradient.sign()).clamp(0, 1)


def noisy_start(images: Tensor, radius: float) -> Tensor:
    """Return images plus uniform noise in +-radius, not clamped: where N-FGSM starts."""
    return images + draw_like(images, lambda noise: noise.uniform_(-radius, radius))


def loss_gradient(
    logits_function: LogitsFunction, images: Tensor, labels: Tensor, loss: AttackLoss
) -> tuple[Tensor, Tensor]:
    """Return logits (N, classes) and the gradient of each image's loss by the image (N, 3, H, W), both detached."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_function(images)
        (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), images)
    return logits.detach(), gradient


def _keep_better(best: Tensor, best_margin: Tensor, current: Tensor, margins: Tensor, active: Tensor) -> None:
    """Write the active images whose margin is higher than before into `best`, in place."""
    improved = margins > best_margin[active]
    chosen = active[improved]
    best[chosen] = current[chosen]
    best_margin[chosen] = margins[improved]
