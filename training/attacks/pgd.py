"""L-inf gradient attacks: FGSM, PGD and Carlini-Wagner's margin loss on PGD.

Every attack takes a function from images to logits (see training.attacks.views for how it may see a self-gradient
network)
and returns images within the epsilon ball and [0, 1].
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from training.networks.self_gradient import LogitsFunction
from training.parallel.synchronised import draw_like

AttackLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits (N, classes) and labels (N) to the loss per image (N) that the attacker raises."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per image, (N, classes) and (N), or (N, classes) shares of mixed labels -> (N)."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Highest wrong logit minus the right one, (N, classes) and (N) -> (N); above zero where the answer is wrong.

    Source: Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks (2017), f_6 without its cap.
    """
    logits = logits.float()
    right = logits.gather(1, labels[:, None]).squeeze(1)
    wrong = logits.scatter(1, labels[:, None], float("-inf")).amax(dim=1)
    return wrong - right


Start = Literal["image", "uniform", "near"]


def pgd(
    logits_function: LogitsFunction,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    loss: AttackLoss = cross_entropy,
    start: Start = "uniform",
    keep_best: bool = True,
) -> Tensor:
    """Projected gradient ascent on the loss in the L-inf ball, intersected with [0, 1].

    images:     (N, 3, H, W) in [0, 1]
    labels:     (N)
    eps:        radius of the ball, units of pixel intensity
    step_size:  units of pixel intensity
    start:      the image itself, a uniform draw from the ball, or a normal draw of standard deviation 0.001 around the
                image, for losses that have no gradient at the image (draws come from torch's global generator)
    keep_best:  return each image's first iterate that is classified wrongly, or else the one of highest margin (the
                start included), instead of the last one; with it more steps from the same start never raise
                accuracy, and a fooled image costs no more steps. One more forward pass than without
    returns:    (N, 3, H, W), detached
    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (2018).
    """
    images = images.detach()
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    current = images.clone()
    if start == "uniform":
        current = torch.clamp(images + draw_like(images, lambda noise: noise.uniform_(-eps, eps)), low, high)
    elif start == "near":
        current = torch.clamp(images + draw_like(images, lambda noise: noise.normal_(0, 0.001)), low, high)
    best, best_margin = current.clone(), torch.full(labels.shape[:1], float("-inf"), device=images.device)
    # Indices of the images still under attack: all, or with keep_best those that are not fooled yet.
    active = torch.arange(len(labels), device=images.device)
    for _ in range(steps):
        logits, gradient = loss_gradient(logits_function, current[active], labels[active], loss)
        if keep_best:
            margins = margin(logits, labels[active])
            _keep_better(best, best_margin, current, margins, active)
            active, gradient = active[margins <= 0], gradient[margins <= 0]
            if len(active) == 0:
                return best
        current[active] = torch.clamp(current[active] + step_size * gradient.sign(), low[active], high[active])
    if not keep_best:
        return current
    with torch.no_grad():
        margins = margin(logits_function(current[active]), labels[active])
    _keep_better(best, best_margin, current, margins, active)
    return best


def best_of_restarts(
    attack: Callable[[Tensor, Tensor], Tensor],
    logits_function: LogitsFunction,
    images: Tensor,
    labels: Tensor,
    restarts: int,
) -> Tensor:
    """Runs an attack with a random start again and again; each image keeps its result of highest margin.

    attack:   images, labels -> attacked images; run first on all, then on those that are not fooled yet
    returns:  (N, 3, H, W), detached
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
    """One step of size eps along the sign of the loss gradient; shapes as for pgd.

    Source: Goodfellow et al., Explaining and Harnessing Adversarial Examples (2015).
    """
    return pgd(logits_function, images, labels, eps=eps, steps=1, step_size=eps, start="image", keep_best=False)


def noise_fgsm(
    logits_function: LogitsFunction, images: Tensor, labels: Tensor, *, eps: float, noise_scale: float = 2.0
) -> Tensor:
    """N-FGSM, a training attack: one FGSM step from an image with stronger noise on it, not projected back.

    noise_scale: the noise is uniform in +-noise_scale * eps, so the result lies within (1 + noise_scale) * eps
    returns:     (N, 3, H, W) in [0, 1], detached; outside the eps ball on purpose
    Source: de Jorge et al., Make Some Noise: Reliable and Efficient Single-Step Adversarial Training (2022), a
    remedy for the catastrophic overfitting of one-step attacks that costs nothing.
    """
    images = images.detach()
    noisy = images + draw_like(images, lambda noise: noise.uniform_(-noise_scale * eps, noise_scale * eps))
    _, gradient = loss_gradient(logits_function, noisy, labels, cross_entropy)
    return (noisy + eps * gradient.sign()).clamp(0, 1)


def loss_gradient(
    logits_function: LogitsFunction, images: Tensor, labels: Tensor, loss: AttackLoss
) -> tuple[Tensor, Tensor]:
    """Logits (N, classes), and the gradient of each image's loss with respect to the image, (N, 3, H, W); detached."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_function(images)
        (gradient,) = torch.autograd.grad(loss(logits, labels).sum(), images)
    return logits.detach(), gradient


def _keep_better(best: Tensor, best_margin: Tensor, current: Tensor, margins: Tensor, active: Tensor) -> None:
    """Writes the active images whose margin is higher than before into best, in place."""
    improved = margins > best_margin[active]
    chosen = active[improved]
    best[chosen] = current[chosen]
    best_margin[chosen] = margins[improved]
