"""Measure attacks on the saving of self_gradient="auto": pictures that are changed so that they need the second pass.

They leave the answer alone. Under them a service that counts on its saving has less of it.

Source: Hong et al., A Panda? No, It's a Sloth: Slowdown Attacks on Adaptive Multi-Exit Neural Network Inference (2021),
whose efficacy is the share of the computation that is saved, with an attack for each picture and a universal one.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from training.common.in_batches import in_batches
from training.evaluate.measuring import Trial
from training.networks.self_gradient import SelfGradientNetwork, probability_margin

STEPS = 40
STEP_SIZE = 2 / 255
"""Size of the first step. It falls to zero in equal parts, for long steps jump from one clear answer to another."""
UNIVERSAL_STEPS = 100
UNIVERSAL_STEP_SIZE = 1 / 255
"""STEP_SIZE for the universal perturbation."""


@dataclass(frozen=True)
class SlowDown:
    """Shares of the pictures that need the second pass, and what the attacks take from the saving.

    Attributes:
        margin: The threshold.
        pictures: Number of pictures.
        second_pass: Share on the pictures as they are.
        per_picture: Share with a perturbation for each picture.
        per_picture_taken: Share of the saved second passes that this one brings back.
        universal_pictures: Number of pictures that the universal perturbation was not made on.
        universal_second_pass: Share of these as they are.
        universal: Share of these with one perturbation, made on the other half.
        universal_taken: The same share as per_picture_taken, for the universal one.
        eps: L-inf budget, units of pixel intensity.
    """

    margin: float
    pictures: int
    second_pass: float
    per_picture: float
    per_picture_taken: float
    universal_pictures: int
    universal_second_pass: float
    universal: float
    universal_taken: float
    eps: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def measure_slow_down(trial: Trial[SelfGradientNetwork]) -> SlowDown:
    """Return how often the second pass is needed, attacked and not.

    Args:
        trial: A network with a threshold, and at least two pictures.

    Raises:
        ValueError: The network has no threshold.
    """
    model = trial.model
    if model.auto_margin is None:
        raise ValueError("a network without auto_margin saves nothing that could be taken")
    plain = needed(trial, trial.images)
    slowed = in_batches(lambda images: slow_each(model, images, trial.eps), trial.images, batch_size=trial.batch_size)
    attacked = plain | needed(trial, slowed)  # an attacker does not change a picture that needs it anyway
    half = len(trial) // 2
    universal = slow_all(trial.first(half))
    others = trial.images[half:]
    with_universal = needed(trial, (others + universal).clamp(0, 1))
    shares = [values.double().mean().item() for values in (plain, attacked, plain[half:], with_universal)]
    return SlowDown(
        margin=model.auto_margin,
        pictures=len(trial),
        second_pass=shares[0],
        per_picture=shares[1],
        per_picture_taken=_taken(shares[0], shares[1]),
        universal_pictures=len(others),
        universal_second_pass=shares[2],
        universal=shares[3],
        universal_taken=_taken(shares[2], shares[3]),
        eps=trial.eps,
    )


def needed(trial: Trial[SelfGradientNetwork], images: Tensor) -> Tensor:
    """Return which of some images need the second pass, (N) bool on the CPU."""

    def one_batch(some: Tensor) -> Tensor:
        return trial.model.needs_second_pass(trial.model.plain_logits(some))

    with torch.no_grad():
        return in_batches(one_batch, images, batch_size=trial.batch_size).cpu()


def slow_each(model: SelfGradientNetwork, images: Tensor, eps: float) -> Tensor:
    """Return images, (N, 3, H, W), each changed until its plain answer is not clear, or by all STEPS steps."""
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    current = images.clone()
    for step in range(STEPS):
        step_size = STEP_SIZE * (1 - step / STEPS)
        lead, gradient = _lead_gradient(model, current)
        moving = (lead >= (model.auto_margin or 0.0))[:, None, None, None]
        current = torch.where(moving, torch.clamp(current - step_size * gradient.sign(), low, high), current)
    return current


def slow_all(trial: Trial[SelfGradientNetwork]) -> Tensor:
    """Return one perturbation, (1, 3, H, W), that makes as many of the trial's pictures as it can need the second pass.

    Each step goes down the mean lead of the pictures of one batch that are still clear.
    """
    perturbation = torch.zeros_like(trial.images[:1])
    batches = trial.images.split(trial.batch_size)
    for step in range(UNIVERSAL_STEPS):
        images = batches[step % len(batches)]
        lead, gradient = _lead_gradient(trial.model, (images + perturbation).clamp(0, 1))
        still = (lead >= (trial.model.auto_margin or 0.0)).to(gradient.dtype)[:, None, None, None]
        step_size = UNIVERSAL_STEP_SIZE * (1 - step / UNIVERSAL_STEPS)
        moved = perturbation - step_size * (gradient * still).sum(dim=0, keepdim=True).sign()
        perturbation = moved.clamp(-trial.eps, trial.eps)
    return perturbation


def _lead_gradient(model: SelfGradientNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the margins, (N), and the gradients of the lead in logits, which does not vanish where one is certain."""
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.plain_logits(inputs)
        largest = logits.topk(min(2, logits.shape[1]), dim=1).values
        lead = largest[:, 0] - largest[:, -1]
        (gradient,) = torch.autograd.grad(lead.sum(), inputs)
    return probability_margin(logits.detach()), gradient


def _taken(before: float, after: float) -> float:
    """Return the share of the saved second passes that an attack brings back."""
    return (after - before) / (1 - before) if before < 1 else 0.0
