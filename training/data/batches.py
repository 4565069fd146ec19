"""Convert, augment and batch pictures."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.picture_set import PictureSet


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images (N, 3, H, W) to float32 in [0, 1]."""
    return images.float() / 255


def augment(images: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Crop each zero-padded picture at random and, if asked, mirror it at random.

    The draws come from torch's global generator.

    Args:
        images: (N, 3, H, W) uint8.
        padding: Zero padding on each side, in pixels.
        flip: Whether half of the pictures are mirrored.

    Returns:
        (N, 3, H, W) uint8.
    """
    count, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (padding,) * 4)
    rows = torch.randint(2 * padding + 1, (count, 1), device=device) + torch.arange(height, device=device)
    columns = torch.randint(2 * padding + 1, (count, 1), device=device) + torch.arange(width, device=device)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picture = torch.arange(count, device=device)[:, None, None]
    # Advanced indices around the channel slice put the channels last; move them back.
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def batches(pictures: PictureSet, indices: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield shuffled batches of uint8 images, labels and indices. An incomplete last batch is left out.

    The order comes from torch's global generator.

    Args:
        pictures: All pictures.
        indices: (M), of those to yield, on the training device, where they are also shuffled. Pictures that are
            elsewhere are brought there.
        batch_size: Pictures in each batch.

    Yields:
        Images (batch_size, 3, H, W), labels (batch_size), and the pictures' indices (batch_size).
    """
    order = indices[torch.randperm(len(indices), device=indices.device)]
    for first in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[first : first + batch_size]
        here = chosen.to(pictures.images.device)
        yield pictures.images[here].to(chosen.device), pictures.labels[here].to(chosen.device), chosen
