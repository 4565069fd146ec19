"""Find the threshold of self_gradient="auto" on validation pictures, and measure what a threshold does.

The second pass changes few answers, and those are answers whose two largest probabilities are nearly equal. So the
threshold is on their difference: networks.self_gradient.probability_margin.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from training.common.in_batches import in_batches
from training.networks.self_gradient import SelfGradientNetwork, probability_margin

STEPS = 10_000
"""Thresholds are multiples of 1 / STEPS: a number that people can read and copy."""


@dataclass(frozen=True)
class AutoMargin:
    """A threshold, and what it did on the pictures that it was measured on.

    Attributes:
        margin: The threshold.
        agreement: Share of the pictures whose top class is the one with the block on.
        second_pass: Share of the pictures that needed the second pass.
        pictures: Number of pictures.
    """

    margin: float
    agreement: float
    second_pass: float
    pictures: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, shares with four digits."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def both_answers(model: SelfGradientNetwork, images: Tensor, batch_size: int = 250) -> tuple[Tensor, Tensor]:
    """Return the logits with the block off and on, (N, classes) each.

    Args:
        model: A network with a block, in eval mode.
        images: (N, 3, H, W) in [0, 1].
        batch_size: Pictures that the network sees at once.
    """

    def both(some: Tensor) -> Tensor:
        plain, gradient = model.first_pass(some)
        return torch.stack([plain, model.second_pass(some, gradient)], dim=1)

    with torch.no_grad():
        plain, corrected = in_batches(both, images, batch_size=batch_size).unbind(dim=1)
    return plain, corrected


def effect_of_margin(margin: float, plain: Tensor, corrected: Tensor) -> AutoMargin:
    """Return what a threshold does on pictures with these answers.

    Args:
        margin: The threshold.
        plain: Logits with the block off, (N, classes).
        corrected: Logits with the block on, (N, classes).
    """
    second = ~(probability_margin(plain) >= margin)
    same = second | (plain.argmax(dim=1) == corrected.argmax(dim=1))
    return AutoMargin(margin, same.double().mean().item(), second.double().mean().item(), len(plain))


def smallest_auto_margin(plain: Tensor, corrected: Tensor, agreement: float) -> AutoMargin:
    """Return the smallest threshold with which enough pictures get the answer of the block on.

    Args:
        plain: Logits with the block off, (N, classes).
        corrected: Logits with the block on, (N, classes).
        agreement: Share of the pictures, in [0, 1].

    Returns:
        The threshold, a multiple of 1 / STEPS, and what it does. It is 0 where the block changes few enough answers.
    """
    margins = probability_margin(plain)
    # A margin that is NaN needs the second pass with any threshold.
    changed = (plain.argmax(dim=1) != corrected.argmax(dim=1)) & ~margins.isnan()
    margins = margins[changed].sort(descending=True).values
    # The number of pictures that may keep another answer. The tolerance is for products such as 1000 * (1 - 0.998).
    spared = math.floor(len(plain) * (1 - agreement) + 1e-9)
    margin = 0.0
    if len(margins) > spared:
        margin = min(1.0, (math.floor(margins[spared].item() * STEPS) + 1) / STEPS)
    return effect_of_margin(margin, plain, corrected)


def find_auto_margin(model: SelfGradientNetwork, images: Tensor, agreement: float, batch_size: int = 250) -> AutoMargin:
    """Return the threshold that smallest_auto_margin finds for a network on some pictures.

    Args:
        model: A network with a block, in eval mode.
        images: (N, 3, H, W) in [0, 1]: validation pictures, never test ones.
        agreement: Share of the pictures that shall get the answer of the block on.
        batch_size: Pictures that the network sees at once.
    """
    return smallest_auto_margin(*both_answers(model, images, batch_size), agreement)
