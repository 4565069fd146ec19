"""Augment pictures by cutting: a hole (cutout), or a rectangle of another picture (CutMix)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cutout(images: Tensor, size: int, fill: Tensor) -> Tensor:
    """Fill a square hole in each image. Its centre is anywhere, so part of it may lie outside.

    The draws come from torch's global generator.

    Args:
        images: (N, C, H, W).
        size: Side of the hole in pixels; 16 in the source for CIFAR-10, 8 for CIFAR-100.
        fill: (1, C, 1, 1), the data's mean in the source.

    Returns:
        (N, C, H, W).

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout (2017).
    """
    count, _, height, width = images.shape
    sides = torch.full((count,), size, device=images.device)
    return torch.where(_rectangles(sides, sides, height, width), fill, images)


def cutmix(images: Tensor, labels: Tensor, classes: int, share: float) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch into some images, and mix their labels by area.

    The draws come from torch's global generator.

    Args:
        images: (N, C, H, W).
        labels: (N).
        classes: How many classes there are.
        share: Share of the images that are mixed; 0.5 in the source for CIFAR.

    Returns:
        Images (N, C, H, W), and label shares (N, classes) that sum to 1.

    Source: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features (2019),
    with its uniform distribution of the area, drawn for each image on its own.
    """
    count, _, height, width = images.shape
    device = images.device
    others = torch.randperm(count, device=device)
    side = torch.rand(count, device=device).sqrt()
    side = torch.where(torch.rand(count, device=device) < share, side, 0.0)
    pasted = _rectangles((side * height).int(), (side * width).int(), height, width)
    area = pasted.float().mean(dim=(1, 2, 3))[:, None]
    one_hot = F.one_hot(labels, classes).float()
    return torch.where(pasted, images[others], images), (1 - area) * one_hot + area * one_hot[others]


def _rectangles(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Draw one rectangle for each image, its centre anywhere, cut off at the border.

    Args:
        rows: (N), heights in pixels.
        columns: (N), widths in pixels.
        height: Height of the images.
        width: Width of the images.

    Returns:
        (N, 1, H, W) bool, true inside.
    """
    device = rows.device

    def inside(sides: Tensor, length: int) -> Tensor:
        first = torch.randint(length, sides.shape, device=device) - sides // 2
        positions = torch.arange(length, device=device)
        return (positions >= first[:, None]) & (positions < (first + sides)[:, None])

    return (inside(rows, height)[:, :, None] & inside(columns, width)[:, None, :])[:, None]
