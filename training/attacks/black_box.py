"""Rows of a report whose attacks look at answers only: random noise, and pictures made on another network."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from training.attacks.base import TargetModel, block_state
from training.attacks.gradient_attack import Attack
from training.attacks.rows import CLEAN, RowFilter, RowId
from training.networks.names import SelfGradient
from training.networks.self_gradient import SelfGradientNetwork


@dataclass(frozen=True)
class RandomNoise:
    """Take the first random point of the epsilon ball that fools the network; every second one is a random corner.

    Attributes:
        block: Whether the network under attack has its block on, or "auto".
        draws: Points that are tried for each picture.
        survivors_of: Rows whose survivors alone are attacked.
    """

    block: SelfGradient = True
    draws: int = 100
    survivors_of: tuple[RowFilter, ...] = (CLEAN,)

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        return RowId(block_state(self.block), "noise", steps=self.draws)

    def network_calls(self, classes: int) -> int:
        """Return how often the network is called on a picture that withstands the attack."""
        return self.draws

    def parameters(self) -> dict[str, Any]:
        """Return every field, as JSON can hold it."""
        return {**asdict(self), "survivors_of": [rows.as_dict() for rows in self.survivors_of]}

    def perturb(self, model: TargetModel, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached, within the epsilon ball and [0, 1]."""
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
class SourceNetwork:
    """A network whose adversarial pictures are shown to another one.

    Attributes:
        network: The network.
        title: Its name in the titles of rows.
        sha256: SHA-256 of its checkpoint.
    """

    network: SelfGradientNetwork
    title: str
    sha256: str


@dataclass(frozen=True)
class Transfer:
    """Show one network the pictures that a white-box attack made on another.

    Attributes:
        source: The network that the pictures are made on.
        attack: The attack on the source. It goes to the end (keep_best=False), because a picture that only just fools
            the source seldom fools another network.
        block: Whether the network under test has its block on.
        survivors_of: Rows whose survivors alone are attacked.
    """

    source: SourceNetwork
    attack: Attack
    block: SelfGradient = True
    survivors_of: tuple[RowFilter, ...] = (CLEAN,)

    @property
    def id(self) -> RowId:
        """The row of the report that this attack fills."""
        return replace(self.attack.id, state=block_state(self.block), source=self.source.title)

    def network_calls(self, classes: int) -> int:
        """Return how often the source is called on a picture that withstands the attack."""
        return self.attack.network_calls(classes)

    def parameters(self) -> dict[str, Any]:
        """Return what the figure depends on, as JSON can hold it; the source is named by its checkpoint's hash."""
        return {
            "block": self.block,
            "source_sha256": self.source.sha256,
            "attack": self.attack.parameters(),
            "survivors_of": [rows.as_dict() for rows in self.survivors_of],
        }

    def perturb(self, model: TargetModel, images: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Return attacked images, (N, 3, H, W), detached; `model` is not looked at."""
        return self.attack.perturb(self.source.network, images, labels, eps)
