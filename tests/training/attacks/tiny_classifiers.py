"""Classifiers in float64 that are small enough to attack picture by picture, and a count of what they are asked."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 6
SHAPE = (3, 3, 3)


def smooth_classifier(seed: int = 0) -> nn.Module:
    """Return a two-layer network of six classes on 3x3 pictures, in float64."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(27, 24), nn.SiLU(), nn.Linear(24, CLASSES))
    for parameter in layers.parameters():
        nn.init.normal_(parameter, 0, 0.6)
    return layers.double().requires_grad_(False)


def linear_classifier(weights: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """Return images (N, 3, H, W) to logits (N, classes), weights being (classes, 3 H W)."""
    return lambda images: images.flatten(1) @ weights.T + bias


def pictures(model: Callable[[Tensor], Tensor], count: int = 12) -> tuple[Tensor, Tensor]:
    """Return pictures in float64 with the network's own answers as labels."""
    images = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return images, model(images).argmax(dim=1)


class Counted:
    """A network that counts how many pictures it was asked about."""

    def __init__(self, model: Callable[[Tensor], Tensor]):
        """Start at 0."""
        self.model = model
        self.asked = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Return the network's logits."""
        self.asked += len(images)
        return self.model(images)
