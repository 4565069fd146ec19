"""Standard training."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.networks.self_gradient import SelfGradientNetwork


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on the pictures as they are.

    Attributes:
        label_smoothing: Share of a label that all classes divide evenly.
    """

    label_smoothing: float = 0.0

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Return the pictures as they are."""
        return Batch(images, images, targets, context)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the cross-entropy of the pictures."""
        logits = model.plain_logits(batch.images).float()
        return Step(F.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing), logits)
