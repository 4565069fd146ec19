"""Attacks that look at answers only: random noise, and pictures made on another network."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from training.attacks.base import Classifier, block_state
from training.attacks.gradient_attack import Attack
from training.networks.self_gradient import SelfGradientNetwork


@dataclass(frozen=True)
class RandomNoise:
    """Random points of the epsilon ball, the first that fools; every second one a random corner.

    draws: points tried per picture
    """

    block: bool = True
    draws: int = 100
    survivors_of: tuple[str, ...] = ("clean",)

    @property
    def name(self) -> str:
        return f"random noise, {self.draws} draws"

    @property
    def state(self) -> str:
        return block_state(self.block)

    def parameters(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}

    def perturb(self, model: Classifier, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Shapes as for attacks.pgd."""
        best = images.detach().clone()
        active = torch.arange(len(labels), device=images.device)
        for draw in range(self.draws):
            noise = torch.empty_like(images[active]).uniform_(-eps, eps)
            if draw % 2:
                noise = eps * noise.sign()
            noisy = (images[active] + noise).clamp(0, 1)
            with torch.no_grad():
                fooled = model(noisy, self_gradient=self.block).argmax(dim=1) != labels[active]
            best[active[fooled]] = noisy[fooled]
            active = active[~fooled]
            if len(active) == 0:
                break
        return best


@dataclass(frozen=True)
class Transfer:
    """Pictures made by a white-box attack on one network, shown to another.

    source:        the network attacked
    source_title:  how the row's name calls it
    source_sha256: of its checkpoint
    attack:        on the source; to the end (keep_best=False), because a picture that only just fools the source
                   seldom fools another network
    block:         of the network under test
    """

    source: SelfGradientNetwork
    source_title: str
    source_sha256: str
    attack: Attack
    block: bool = True
    survivors_of: tuple[str, ...] = ("clean",)

    @property
    def name(self) -> str:
        return f"{self.attack.name}, transfer from {self.source_title}"

    @property
    def state(self) -> str:
        return block_state(self.block)

    def parameters(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "block": self.block,
            "source_sha256": self.source_sha256,
            "attack": self.attack.parameters(),
            "survivors_of": self.survivors_of,
        }

    def perturb(self, model: Classifier, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Shapes as for attacks.pgd; `model` is not looked at."""
        return self.attack.perturb(self.source, images, labels, eps)
