"""APGD on the targeted difference of logits ratio: PGD that halves its steps where they no longer help.

The row apgd-t is the package's own. This one takes any target for each picture, which MALT needs. It ends with the
first iterate that fools the network, so a picture that falls costs no more calls.

Source: Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks (2020), algorithm 1 and equation 7.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.attacks.projected_gradient import ball, margin
from training.common.precision import at_least_float32
from training.networks.self_gradient import LogitsFunction

MOMENTUM = 0.75
FEWEST_RISES = 0.75
"""Share of the steps between two checks that must raise the loss. With fewer, steps are halved."""


def targeted_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the target's logit minus the right one, over a difference that scaling the logits scales too.

    Args:
        logits: (N, classes), at least 4 classes.
        labels: (N).
        targets: (N), a wrong class for each.

    Returns:
        (N)
    """
    logits = at_least_float32(logits)
    right, target = (logits.gather(1, chosen[:, None]).squeeze(1) for chosen in (labels, targets))
    largest = logits.topk(4, dim=1).values
    return (target - right) / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2 + 1e-12)


def checks(steps: int) -> tuple[int, ...]:
    """Return after how many steps the size of a step is looked at: ever more often, as in the source."""
    length, shorter, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    ends = [length]
    while ends[-1] < steps:
        length = max(length - shorter, shortest)
        ends.append(ends[-1] + length)
    return tuple(end for end in ends if end <= steps)


@dataclass
class _Pictures:
    """The pictures that are still under attack, each with where its attack is. Every field has one entry a picture.

    Attributes:
        index: Its place in the batch.
        labels: Its label.
        targets: The class that it is moved to.
        low: The lowest picture of its ball.
        high: The highest one.
        current: The iterate.
        previous: The iterate before.
        gradient: The loss's gradient at the iterate.
        loss: The loss there.
        best: The iterate of highest loss so far.
        best_gradient: The gradient there.
        best_loss: The loss there.
        step_size: Size of its next step.
        rises: Steps since the last check that raised the loss.
        checked_loss: Highest loss at the last check.
        halved: Whether the last check halved the step.
    """

    index: Tensor
    labels: Tensor
    targets: Tensor
    low: Tensor
    high: Tensor
    current: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step_size: Tensor
    rises: Tensor
    checked_loss: Tensor
    halved: Tensor

    def keep(self, mask: Tensor) -> None:
        """Drop the pictures that a mask, (N) bool, does not name."""
        if not mask.all():
            for name, values in vars(self).items():
                setattr(self, name, values[mask])

    def move(self, first: bool) -> None:
        """Take a step along the gradient's sign. After the first one, a part of the step before is added."""
        share = 1.0 if first else MOMENTUM
        size = self.step_size[:, None, None, None]
        stepped = torch.clamp(self.current + size * self.gradient.sign(), self.low, self.high)
        moved = self.current + share * (stepped - self.current) + (1 - share) * (self.current - self.previous)
        self.previous, self.current = self.current, torch.clamp(moved, self.low, self.high)

    def note(self, loss: Tensor, gradient: Tensor) -> None:
        """Take down the loss, (N), and its gradient, (N, 3, H, W), at the iterate."""
        self.rises = self.rises + (loss > self.loss)
        self.loss, self.gradient = loss, gradient
        better = loss > self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.best = torch.where(better[:, None, None, None], self.current, self.best)
        self.best_gradient = torch.where(better[:, None, None, None], gradient, self.best_gradient)

    def check(self, since: int) -> None:
        """Halve the steps of pictures that do not get on, and set these back to their best iterate.

        Args:
            since: Steps since the last check.
        """
        stuck = ~self.halved & (self.best_loss <= self.checked_loss)
        halve = (self.rises <= FEWEST_RISES * since) | stuck
        self.step_size = torch.where(halve, self.step_size / 2, self.step_size)
        self.current = torch.where(halve[:, None, None, None], self.best, self.current)
        self.gradient = torch.where(halve[:, None, None, None], self.best_gradient, self.gradient)
        self.halved, self.checked_loss = halve, self.best_loss
        self.rises = torch.zeros_like(self.rises)


@dataclass(frozen=True)
class TargetedAutoPGD:
    """APGD from a random point of the ball, with steps of 2 eps at first.

    Attributes:
        eps: Radius of the ball, units of pixel intensity.
        steps: Number of steps; 100 is AutoAttack's.
    """

    eps: float
    steps: int = 100

    def perturb(
        self, logits_function: LogitsFunction, images: Tensor, labels: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attack images until the network is wrong, in favour of whatever class.

        Args:
            logits_function: The network as the attack sees it.
            images: (N, 3, H, W) in [0, 1].
            labels: (N).
            targets: (N), the wrong class that each image is moved to.

        Returns:
            The attacked images, (N, 3, H, W), detached, and which of them fooled the network, (N) bool. An image that
            did not is returned as it was.
        """
        result = images.detach().clone()
        fooled = torch.zeros(len(labels), dtype=torch.bool, device=images.device)
        pictures = self._start(images.detach(), labels, targets)
        ends = checks(self.steps)
        last_check = 0
        for step in range(self.steps + 1):
            if step > 0:
                pictures.move(first=step == 1)
            logits, loss, gradient = _differentiate(logits_function, pictures)
            left = margin(logits, pictures.labels) <= 0
            taken = pictures.index[~left]
            result[taken], fooled[taken] = pictures.current[~left], True
            pictures.keep(left)
            if len(pictures.index) == 0:
                break
            pictures.note(loss[left], gradient[left])
            if step == 0:
                pictures.checked_loss = pictures.best_loss
                pictures.rises = torch.zeros_like(pictures.rises)
            if step in ends:
                pictures.check(step - last_check)
                last_check = step
        return result, fooled

    def _start(self, images: Tensor, labels: Tensor, targets: Tensor) -> _Pictures:
        low, high = ball(images, self.eps)
        start = torch.clamp(images + torch.empty_like(images).uniform_(-self.eps, self.eps), low, high)
        lowest = torch.full(labels.shape, float("-inf"), dtype=images.dtype, device=images.device)
        return _Pictures(
            index=torch.arange(len(labels), device=images.device),
            labels=labels,
            targets=targets,
            low=low,
            high=high,
            current=start,
            previous=start,
            gradient=torch.zeros_like(start),
            loss=lowest,
            best=start,
            best_gradient=torch.zeros_like(start),
            best_loss=lowest,
            step_size=torch.full_like(lowest, 2 * self.eps),
            rises=torch.zeros_like(labels),
            checked_loss=lowest,
            halved=torch.ones_like(labels, dtype=torch.bool),
        )


def _differentiate(logits_function: LogitsFunction, pictures: _Pictures) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, losses and the losses' gradients at the iterates, detached."""
    inputs = pictures.current.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_function(inputs)
        loss = targeted_ratio(logits, pictures.labels, pictures.targets)
        (gradient,) = torch.autograd.grad(loss.sum(), inputs)
    return logits.detach(), loss.detach().to(inputs.dtype), gradient
