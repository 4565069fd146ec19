"""Does an answer depend on anything but the picture?"""

import torch
from torch import Tensor

from training.robustness import Classifier


def batch_dependence(model: Classifier, images: Tensor) -> float:
    """Largest change of a logit when an image is classified alone and not among the others.

    images:  (N, 3, H, W), N at least 2, a few dozen
    returns: relative to the largest absolute logit; rounding makes about 1e-6 of it
    """
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    return _relative_change(together, alone)


def randomness(model: Classifier, images: Tensor, repetitions: int = 5) -> float:
    """Largest change of a logit when the same batch is classified again; as batch_dependence."""
    with torch.no_grad():
        first = model(images)
        return max(_relative_change(first, model(images)) for _ in range(repetitions - 1))


def _relative_change(logits: Tensor, others: Tensor) -> float:
    largest = logits.abs().max().clamp(min=torch.finfo(logits.dtype).tiny)
    return ((logits - others).abs().max() / largest).item()
