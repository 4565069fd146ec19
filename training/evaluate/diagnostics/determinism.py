"""Measure whether an answer depends on anything but the picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from training.attacks.base import TargetModel


def batch_dependence(model: TargetModel, images: Tensor) -> float:
    """Return how much the logits change when an image is classified alone and not among the others.

    Rounding changes about 1e-7. It may also switch a ReLU whose input is nearly zero. That moves the self-gradient of
    this one image by far more (1e-4 of the logits was seen). The median leaves it out. An answer that really depends on
    the batch does so for nearly every image. TF32, the default for a GPU's convolutions, is off meanwhile: with it,
    4e-5 was seen on an H200.

    Args:
        model: The network.
        images: (N, 3, H, W), at least 2, a few dozen.

    Returns:
        Median over images of the largest change of a logit, relative to the largest absolute logit.
    """
    with torch.no_grad(), _without_tf32():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    return _relative_change(together, alone)


def randomness(model: TargetModel, images: Tensor, repetitions: int = 5) -> float:
    """Return how much the logits change when the same batch is classified again, measured as batch_dependence does."""
    with torch.no_grad():
        first = model(images)
        return max(_relative_change(first, model(images)) for _ in range(repetitions - 1))


def products_on_a_gpu() -> tuple[Any, Any]:
    """Return PyTorch's settings of convolutions and matrix products on a GPU, whose `fp32_precision` may be TF32."""
    return torch.backends.cudnn.conv, torch.backends.cuda.matmul  # type: ignore[attr-defined]


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Have a GPU multiply in whole float32 meanwhile."""
    products = products_on_a_gpu()
    before = [kind.fp32_precision for kind in products]
    try:
        for kind in products:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(products, before, strict=True):
            kind.fp32_precision = precision


def _relative_change(logits: Tensor, others: Tensor) -> float:
    largest = logits.abs().max().clamp(min=torch.finfo(logits.dtype).tiny)
    return ((logits - others).abs().amax(dim=1).median() / largest).item()
