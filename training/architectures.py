"""Backbones by name."""

import re

from torch import nn

from training.wide_resnet import WideResNet

KNOWN = (
    "wrn-D-K with depth D = 10, 16, 22, 28, 34, 40, ... and width K >= 1, "
    "such as wrn-10-2, wrn-16-2, wrn-16-4, wrn-28-10"
)


def build_backbone(arch: str, num_classes: int) -> nn.Module:
    """A freshly initialised network that maps normalised images (N, 3, H, W) to logits (N, num_classes).

    raises ValueError, naming the known architectures, for a name that is none of them
    """
    match = re.fullmatch(r"wrn-(\d+)-(\d+)", arch)
    if match is None:
        raise ValueError(f"unknown architecture {arch!r}; known are: {KNOWN}")
    try:
        return WideResNet(int(match[1]), int(match[2]), num_classes)
    except ValueError as error:
        raise ValueError(f"unknown architecture {arch!r} ({error}); known are: {KNOWN}") from None
