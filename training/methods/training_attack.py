"""Attack a training batch: the inner maximisation that most methods share."""

from dataclasses import dataclass

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
        return cls(config.attack, config.epsilon, config.attack_steps, config.attack_step_size, config.attack_start)

    def __call__(self, logits_function: LogitsFunction, images: Tensor, targets: Tensor) -> Tensor:
        """Return attacked images (N, 3, H, W). The targets are as in training.methods.Batch."""
        if self.kind == "n-fgsm":
            return projected_gradient.noise_fgsm(logits_function, images, targets, eps=self.eps)
        attack = projected_gradient.ProjectedGradientAscent(
            eps=self.eps, steps=self.steps, step_size=self.step_size, start=self.start, keep_best=False
        )
        return attack.perturb(logits_function, images, targets)
