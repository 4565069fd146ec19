"""Train a self-gradient network."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from training.attacks import views
from training.derivatives.double_backward import CheapSecondDerivatives
from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.methods.training_attack import TrainingAttack
from training.networks.self_gradient import LogitsFunction, SelfGradientNetwork, without_running_updates


@dataclass(frozen=True)
class SelfGradientTraining:
    """Cross-entropy on attacked pictures through both passes, differentiating parameters through the self-gradient.

    Attributes:
        training_attack: Attacks each batch.
        view: How the attack sees the self-gradient: TrainConfig's attack_view.
        beta: Sharpness of the smooth view.
        plain_loss_share: Weight of the first pass's cross-entropy.
        label_smoothing: Share of a label that all classes divide evenly in the loss.

    Source: Self-Gradient Networks, sections 3.5 and 4.
    """

    training_attack: TrainingAttack
    view: str
    beta: float
    plain_loss_share: float
    label_smoothing: float = 0.0

    def _view_of(self, model: SelfGradientNetwork) -> LogitsFunction:
        if self.view == "smooth":
            return views.smooth_view(model, self.beta)
        return views.full_view(model) if self.view == "full" else views.held_view(model)

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures through the configured view."""
        with without_running_updates(model):
            attacked = self.training_attack(self._view_of(model), images, targets, context.prior)
        return Batch(images, attacked, targets, context)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the cross-entropy of both passes' logits, mixed by plain_loss_share."""
        with CheapSecondDerivatives():
            plain_logits, gradient = model.first_pass(batch.attacked)
        logits = model.second_pass(batch.attacked, gradient).float()
        loss = F.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing)
        if self.plain_loss_share > 0:
            plain_loss = F.cross_entropy(plain_logits.float(), batch.targets, label_smoothing=self.label_smoothing)
            loss = (1 - self.plain_loss_share) * loss + self.plain_loss_share * plain_loss
        return Step(loss, logits)
