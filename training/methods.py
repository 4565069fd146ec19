"""Training methods: each turns a batch into the loss to minimise."""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from training import attacks, views
from training.config import TrainConfig
from training.model import LogitsFunction, SelfGradientNetwork


@dataclass(frozen=True)
class Step:
    """One batch's outcome.

    loss:   scalar, to be differentiated
    logits: (N, classes), of the images that were trained on, for the running accuracy
    """

    loss: Tensor
    logits: Tensor


class Method(Protocol):
    """What the trainer needs of a training method."""

    def step(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor) -> Step:
        """images (N, 3, H, W) float32 in [0, 1], labels (N) -> Step"""
        ...


class Standard:
    """Cross-entropy on the pictures as they are."""

    def step(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor) -> Step:
        logits = model.plain_logits(images).float()
        return Step(F.cross_entropy(logits, labels), logits)


@dataclass(frozen=True)
class TrainingAttack:
    """The inner maximisation; fields as in TrainConfig."""

    kind: str
    eps: float
    steps: int
    step_size: float

    def __call__(self, logits_function: LogitsFunction, images: Tensor, labels: Tensor) -> Tensor:
        if self.kind == "n-fgsm":
            return attacks.noise_fgsm(logits_function, images, labels, eps=self.eps)
        return attacks.pgd(
            logits_function,
            images,
            labels,
            eps=self.eps,
            steps=self.steps,
            step_size=self.step_size,
            keep_best=False,
        )


@dataclass(frozen=True)
class AdversarialTraining:
    """Cross-entropy on attacked pictures, plain network.

    Source: Madry et al. (2018); with one step, Wong et al., Fast is better than free (2020).
    """

    attack: TrainingAttack

    def step(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor) -> Step:
        attacked = self.attack(views.block_off_view(model), images, labels)
        logits = model.plain_logits(attacked).float()
        return Step(F.cross_entropy(logits, labels), logits)


@dataclass(frozen=True)
class SelfGradientTraining:
    """Cross-entropy on attacked pictures through both passes, parameters differentiated through the self-gradient.

    view, beta:       how the attack sees the self-gradient (TrainConfig)
    plain_loss_share: weight of the first pass's cross-entropy
    Source: Self-Gradient Networks, sections 3.5 and 4.
    """

    attack: TrainingAttack
    view: str
    beta: float
    plain_loss_share: float

    def step(self, model: SelfGradientNetwork, images: Tensor, labels: Tensor) -> Step:
        view = views.smooth_view(model, self.beta) if self.view == "smooth" else views.held_view(model)
        attacked = self.attack(view, images, labels)
        plain_logits, gradient = model.first_pass(attacked)
        logits = model.second_pass(attacked, gradient).float()
        loss = F.cross_entropy(logits, labels)
        if self.plain_loss_share > 0:
            plain_loss = F.cross_entropy(plain_logits.float(), labels)
            loss = (1 - self.plain_loss_share) * loss + self.plain_loss_share * plain_loss
        return Step(loss, logits)


def build_method(config: TrainConfig) -> Method:
    """The method that the configuration names."""
    attack = TrainingAttack(config.attack, config.epsilon, config.attack_steps, config.attack_step_size)
    if config.method == "standard":
        return Standard()
    if config.method == "pgd":
        return AdversarialTraining(attack)
    return SelfGradientTraining(attack, config.attack_view, config.attack_beta, config.plain_loss_share)
