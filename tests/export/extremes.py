"""A network whose self-gradients are zero, underflow or overflow when squared, by the brightness of the picture."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sgn_serve.common.graph_format import LOGITS, PLAIN_LOGITS, SELF_GRADIENT

BRIGHTNESSES = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)
"""Brightness of each test picture, which sets the size of its gradient: see BrightnessScaled."""


class BrightnessScaled(nn.Module):
    """A classifier whose logits, and so their gradient, grow with the picture's brightness from 0 to about 1e32."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.layers = nn.Sequential(*layers, nn.Linear(8, 10))

    def forward(self, images: Tensor) -> Tensor:
        # Normalised images are 4 * (brightness - 0.5). exp(-125) is zero in float32.
        return self.layers(images) * torch.exp(50 * images.mean(dim=(1, 2, 3)) - 25).unsqueeze(1)


def pictures_by_brightness(image_size: tuple[int, int]) -> Tensor:
    """Return a picture of each brightness, with a little noise, (N, 3, H, W)."""
    noise = torch.rand(len(BRIGHTNESSES), 3, *image_size, generator=torch.Generator().manual_seed(1))
    return torch.tensor(BRIGHTNESSES).view(-1, 1, 1, 1) + 1e-3 * (noise - 0.5)


def assert_equal_at_extremes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compare a graph's outputs for these pictures with PyTorch's, whose gradients are the extremes meant."""
    sizes = expected[SELF_GRADIENT].abs().amax(dim=(1, 2, 3))
    assert sizes[0] == 0, "the first picture's gradient is zero"
    assert sizes[1] ** 2 == 0 < sizes[1], "the second's underflows when it is squared"
    assert (sizes[-1] ** 2).isinf(), "the last one's overflows"
    for name in (LOGITS, PLAIN_LOGITS, SELF_GRADIENT):
        assert expected[name].isfinite().all()
        for brightness, want, got in zip(BRIGHTNESSES, expected[name].double(), found[name].double(), strict=True):
            difference = (got - want).norm()
            assert difference <= 1e-3 * want.norm(), f"{name} at brightness {brightness}: {got} is not {want}"
