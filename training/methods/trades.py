"""Train by TRADES: accuracy on clean pictures, traded off against answers that attacks do not move."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.attacks import projected_gradient
from training.common.precision import at_least_float32
from training.methods.passes import clean_and_attacked
from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.networks.self_gradient import SelfGradientNetwork, frozen_batch_norm


def divergence(logits: Tensor, natural_logits: Tensor) -> Tensor:
    """Return KL(softmax(natural_logits) || softmax(logits)) of each image, (N, classes) twice to (N), in float32."""
    log_shares = F.log_softmax(at_least_float32(logits), dim=1)
    natural = F.log_softmax(at_least_float32(natural_logits), dim=1)
    return F.kl_div(log_shares, natural, reduction="none", log_target=True).sum(dim=1)


@dataclass(frozen=True)
class Trades:
    """Cross-entropy on the pictures as they are, plus beta times how far an attack moves the answer.

    The attack raises the divergence itself, not the cross-entropy. It sees batch norm as it is at test time. It starts
    a little beside the picture, because the divergence has no gradient at the picture itself.

    Attributes:
        eps: L-inf budget of the attack, units of pixel intensity.
        steps: Steps of the attack.
        step_size: Size of its steps, units of pixel intensity.
        beta: Weight of the divergence; 6 in the source.
        label_smoothing: Share of a label that all classes divide evenly in the loss.
        joint_pass: Whether one pass takes clean and attacked pictures.

    Source: Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy (2019), algorithm 1.
    """

    eps: float
    steps: int
    step_size: float
    beta: float
    label_smoothing: float = 0.0
    joint_pass: bool = False

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures so that their answers diverge from the natural ones."""
        with frozen_batch_norm(model):
            with torch.no_grad():
                natural_logits = model.plain_logits(images)
            attack = projected_gradient.ProjectedGradientAscent(
                eps=self.eps,
                steps=self.steps,
                step_size=self.step_size,
                loss=lambda logits, _: divergence(logits, natural_logits),
                start="near",
                keep_best=False,
            )
            attacked = attack.perturb(model.plain_logits, images, targets, context.prior)
        return Batch(images, attacked, targets, context)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the natural cross-entropy plus the weighted divergence."""
        natural_logits, logits = clean_and_attacked(model, batch, joint=self.joint_pass)
        natural_loss = F.cross_entropy(natural_logits, batch.targets, label_smoothing=self.label_smoothing)
        return Step(natural_loss + self.beta * divergence(logits, natural_logits).mean(), logits)
