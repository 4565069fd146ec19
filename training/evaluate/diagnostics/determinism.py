"""Measure whether an answer depends on anything but the picture."""

import torch
from torch import Tensor

from training.attacks.base import TargetModel


def batch_dependence(model: TargetModel, images: Tensor) -> float:
    """Return how much the logits change when an image is classified alone and not among the others.

    Rounding changes about 1e-7. The median is taken because rounding may now and then switch a ReLU whose input is
    nearly zero, and so move the self-gradient of a single image by far more (1e-4 of the logits was seen). An answer
    that really depends on the batch does so for nearly every image.

    Args:
        model: The network.
        images: (N, 3, H, W), at least 2, a few dozen.

    Returns:
        Median over images of the largest change of a logit, relative to the largest absolute logit.
    """
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    return _relative_change(together, alone)


def randomness(model: TargetModel, images: Tensor, repetitions: int = 5) -> float:
    """Return how much the logits change when the same batch is classified again, measured as batch_dependence does."""
    with torch.no_grad():
        first = model(images)
        return max(_relative_change(first, model(images)) for _ in range(repetitions - 1))


def _relative_change(logits: Tensor, others: Tensor) -> float:
    largest = logits.abs().max().clamp(min=torch.finfo(logits.dtype).tiny)
    return ((logits - others).abs().amax(dim=1).median() / largest).item()
