"""Perturb image and label, each by one step: bilateral adversarial training."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.attacks import projected_gradient
from training.config import BilateralTarget
from training.methods.step import OUT_OF_TRAINING, Batch, Step, StepContext
from training.networks.self_gradient import SelfGradientNetwork, frozen_batch_norm
from training.parallel.synchronised import draw_like

GAMMA = 0.01
"""Keeps the most confusing class's share of a perturbed label above zero, as in the source."""


def most_confusing(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the wrong class of the highest logit, of logits (N, classes) and labels (N), as (N)."""
    return logits.scatter(1, labels[:, None], float("-inf")).argmax(dim=1)


def random_wrong_class(labels: Tensor, classes: int) -> Tensor:
    """Draw a class other than the label (N), all equally likely, from torch's global generator."""
    return (labels + draw_like(labels, lambda steps: steps.random_(1, classes))) % classes


def perturbed_labels(logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Return the labels after their own attack: the wrong classes share epsilon_y, less likely ones get more of it.

    The gradient of the cross-entropy with respect to a label is v = -log p. MC is the most confusing (most likely)
    wrong class. So the wrong class k receives mass in proportion to v_k - v_MC + gamma. epsilon_y is the most that
    leaves the right class beta times the share of any other. It lies between 1 / (1 + beta) and
    1 / (1 + beta / (classes - 1)).

    Args:
        logits: (N, classes), of the pictures as they are.
        labels: (N).
        beta: 9 for ten classes (epsilon_y up to 0.5) and 11 for a hundred (up to 0.9) in the source.

    Returns:
        (N, classes), each row of sum 1.

    Source: section 4.1 of the paper that BilateralTraining names.
    """
    values = -F.log_softmax(logits.float(), dim=1)
    right = F.one_hot(labels, values.shape[1]).bool()
    lowest = values.masked_fill(right, float("inf")).amin(dim=1, keepdim=True)
    weights = (values - lowest + GAMMA).masked_fill(right, 0.0)
    shares = weights / weights.sum(dim=1, keepdim=True)
    epsilon = 1 / (1 + beta * shares.amax(dim=1, keepdim=True))
    return torch.where(right, 1 - epsilon, epsilon * shares)


@dataclass(frozen=True)
class BilateralTraining:
    """Cross-entropy of a plain network, of attacked pictures against attacked labels.

    The picture is moved from a uniform draw by one step of size eps towards another class: the most confusing one or a
    random one. Attack and labels see the network as it is at test time (batch norm frozen).

    Attributes:
        eps: L-inf budget of the pictures, units of pixel intensity; 8/255 in the source.
        beta: The labels' budget: see perturbed_labels.
        target: The class that the attack moves pictures to.

    Source: Wang and Zhang, Bilateral Adversarial Training: Towards Fast Training of More Robust Models Against
    Adversarial Attacks (2019), R-MC-LA; a random target is its authors' later R-RAND-LA.
    """

    eps: float
    beta: float
    target: BilateralTarget

    def attack(
        self, model: SelfGradientNetwork, images: Tensor, targets: Tensor, context: StepContext = OUT_OF_TRAINING
    ) -> Batch:
        """Attack the pictures and their labels."""
        with frozen_batch_norm(model):
            with torch.no_grad():
                logits = model.plain_logits(images)
            if self.target == "random":
                aims = random_wrong_class(targets, logits.shape[1])
            else:
                aims = most_confusing(logits, targets)
            attack = projected_gradient.ProjectedGradientAscent(
                eps=self.eps,
                steps=1,
                step_size=self.eps,
                loss=lambda logits, aims: -projected_gradient.cross_entropy(logits, aims),
                keep_best=False,
            )
            attacked = attack.perturb(model.plain_logits, images, aims, context.prior)
        return Batch(images, attacked, perturbed_labels(logits, targets, self.beta), context)

    def loss(self, model: SelfGradientNetwork, batch: Batch) -> Step:
        """Return the cross-entropy of the attacked pictures against the attacked labels."""
        logits = model.plain_logits(batch.attacked).float()
        return Step(F.cross_entropy(logits, batch.targets), logits)
