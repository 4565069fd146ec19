"""Adversarial training whose logits may not move between the attack's start and its end."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from training.common.precision import at_least_float32
from training.methods.passes import start_logits, start_pass
from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.methods.training_attack import TrainingAttack
from training.networks.self_gradient import SelfGradientNetwork


@dataclass(frozen=True)
class StartConsistencyTraining:
    """Cross-entropy on attacked pictures, plus the squared difference of their logits and those where the attack began.

    It is FGSM-PGI where the attack starts at the last perturbation (--attack-start prior): neither the old perturbation
    nor the new one is to move the answer. Two parts of its authors' code are left out. That adds a momentum to the
    perturbation which it stores, and draws all perturbations anew every 40 epochs.

    The pass of the attack is kept for the loss, so the difference costs one more backward pass and no forward pass.
    A step takes 1.36 times that of plain one-step training, with WRN-16-2 in bf16 on one core. It takes 1.57 times with
    a pass of its own for the loss.

    Attributes:
        training_attack: An attack of one step.
        weight: Weight of the mean squared difference; 10 in the source for CIFAR-10.
        label_smoothing: Share of a label that all classes divide evenly in the loss.
        keep_start_pass: Whether attack and loss share the pass at the start. Weights must not move between them.

    Source: Jia et al., Prior-Guided Adversarial Initialization for Fast Adversarial Training (2022).
    """

    training_attack: TrainingAttack
    weight: float
    label_smoothing: float = 0.0
    keep_start_pass: bool = True

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures by one step."""
        start = self.training_attack.first_iterate(images, context.prior)
        logits, gradient = start_pass(model, start, targets)
        attacked = self.training_attack.stepped(images, start, gradient)
        return Batch(images, attacked, targets, context, start, logits if self.keep_start_pass else None)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the cross-entropy of the attacked pictures plus the weighted difference."""
        before = start_logits(model, batch)
        logits = at_least_float32(model.plain_logits(batch.attacked))
        loss = F.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing)
        return Step(loss + self.weight * F.mse_loss(logits, before), logits)
