"""Adversarial training of a plain network."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from training.attacks import views
from training.common.precision import at_least_float32
from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.methods.training_attack import TrainingAttack
from training.networks.self_gradient import SelfGradientNetwork, without_running_updates


@dataclass(frozen=True)
class AdversarialTraining:
    """Cross-entropy of a plain network on attacked pictures.

    Attributes:
        training_attack: Attacks each batch.
        label_smoothing: Share of a label that all classes divide evenly in the loss.

    Source: Madry et al. (2018); with one step, Wong et al., Fast is better than free (2020).
    """

    training_attack: TrainingAttack
    label_smoothing: float = 0.0

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures."""
        with without_running_updates(model):
            attacked = self.training_attack(views.first_pass_view(model), images, targets, context.prior)
        return Batch(images, attacked, targets, context)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the cross-entropy of the attacked pictures."""
        logits = at_least_float32(model.plain_logits(batch.attacked))
        return Step(F.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing), logits)
