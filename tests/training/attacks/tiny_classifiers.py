"""Classifiers that are small enough to attack picture by picture, and a count of what they are asked."""

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


def linear_classifier(weights: Tensor, bias: Tensor) -> nn.Module:
    """Return a linear network: weights are (classes, values of a picture), bias is (classes)."""
    linear = nn.Linear(weights.shape[1], len(bias))
    linear.load_state_dict({"weight": weights, "bias": bias})
    return nn.Sequential(nn.Flatten(), linear).requires_grad_(False)


def pictures(model: Callable[[Tensor], Tensor], count: int = 12) -> tuple[Tensor, Tensor]:
    """Return pictures in float64 with the network's own answers as labels."""
    images = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return images, model(images).argmax(dim=1)


class Counted(nn.Module):
    """A network that counts how many pictures it was asked about."""

    def __init__(self, model: nn.Module):
        """Start at 0."""
        super().__init__()
        self.model = model
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits."""
        self.asked += len(images)
        logits: Tensor = self.model(images)
        return logits
