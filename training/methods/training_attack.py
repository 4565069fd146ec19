"""Attack a training batch: the inner maximisation that most methods share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.attacks import projected_gradient
from training.config import TrainConfig
from training.networks.self_gradient import LogitsFunction


@dataclass(frozen=True)
class TrainingAttack:
    """The attack that raises the cross-entropy of a training batch.

    Attributes:
        kind: "pgd" or "n-fgsm".
        eps: L-inf budget, units of pixel intensity.
        steps: Steps of "pgd".
        step_size: Their size, units of pixel intensity.
        start: Where "pgd" starts.
    """

    kind: str
    eps: float
    steps: int
    step_size: float
    start: projected_gradient.Start = "uniform"

    @classmethod
    def of(cls, config: TrainConfig) -> "TrainingAttack":
        """Return the attack that a configuration describes."""
        # The attack starts anywhere without a prior, as in a step outside of a training.
        start = "uniform" if config.attack_start == "prior" else config.attack_start
        return cls(config.attack, config.epsilon, config.attack_steps, config.attack_step_size, start)

    def __call__(
        self, logits_function: LogitsFunction, images: Tensor, targets: Tensor, prior: Tensor | None = None
    ) -> Tensor:
        """Return attacked images (N, 3, H, W).

        Args:
            logits_function: The network as the attack sees it.
            images: (N, 3, H, W) in [0, 1].
            targets: See training.methods.Batch.
            prior: (N, 3, H, W), a perturbation that "pgd" starts from instead of its start.
        """
        if self.kind == "n-fgsm":
            return projected_gradient.noise_fgsm(logits_function, images, targets, eps=self.eps)
        return self._ascent().perturb(logits_function, images, targets, prior)

    def first_iterate(self, images: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return where the attack starts, (N, 3, H, W). The arguments are those of a call."""
        if self.kind == "n-fgsm":
            return projected_gradient.noisy_start(images, projected_gradient.NOISE_SCALE * self.eps)
        return self._ascent().first_iterate(images, prior)

    def stepped(self, images: Tensor, current: Tensor, gradient: Tensor) -> Tensor:
        """Return the next iterate of the attack (N, 3, H, W), detached.

        Args:
            images: (N, 3, H, W), before the attack.
            current: (N, 3, H, W), the iterate.
            gradient: (N, 3, H, W), of the loss at it.
        """
        if self.kind == "n-fgsm":
            return (current + self.eps * gradient.sign()).clamp(0, 1).detach()
        return torch.clamp(
            current + self.step_size * gradient.sign(), *projected_gradient.ball(images, self.eps)
        ).detach()

    def _ascent(self) -> projected_gradient.ProjectedGradientAscent:
        return projected_gradient.ProjectedGradientAscent(
            eps=self.eps, steps=self.steps, step_size=self.step_size, start=self.start, keep_best=False
        )
