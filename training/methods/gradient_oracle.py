"""Train the gradient oracle adversarially."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.methods.training_attack import TrainingAttack
from training.networks.gradient_oracle import GradientOracle
from training.networks.self_gradient import SelfGradientNetwork, without_running_updates


@dataclass(frozen=True)
class OracleTraining:
    """Cross-entropy on attacked pictures with the gradient of their true loss as extra input.

    Attributes:
        training_attack: Attacks each batch.
        label_smoothing: Share of a label that all classes divide evenly in the loss.

    Source: Self-Gradient Networks, table 1, "With Grad"; "Without Grad" is AdversarialTraining.
    """

    training_attack: TrainingAttack
    label_smoothing: float = 0.0

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures; the attack knows their labels, as the oracle does."""
        with without_running_updates(model):
            attacked = self.training_attack(_oracle(model).seen_with(targets), images, targets, context.prior)
        return Batch(images, attacked, targets, context)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the cross-entropy of the attacked pictures."""
        logits = _oracle(model).oracle_logits(batch.attacked, batch.targets).float()
        return Step(F.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing), logits)


def _oracle(model: SelfGradientNetwork) -> GradientOracle:
    if not isinstance(model, GradientOracle):
        raise TypeError("method gradient-oracle trains a GradientOracle; build it with training.checkpoint.build_model")
    return model
