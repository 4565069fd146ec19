"""Convert, augment and batch pictures."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.picture_set import PictureSet


def to_float(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 in [0, 1]."""
    return images.float() / 255


def augment(images: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Random crop out of a zero-padded picture and, if asked, a random mirror image, drawn per picture.

    images:  (N, 3, H, W) uint8
    returns: (N, 3, H, W) uint8; draws come from torch's global generator
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


def batches(pictures: PictureSet, indices: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 images and labels of the pictures at `indices`, shuffled; an incomplete last batch is left out.

    indices: (M), on the pictures' device, where the shuffling and gathering is done too
    The order comes from torch's global generator.
    """
    order = indices[torch.randperm(len(indices), device=indices.device)]
    for first in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[first : first + batch_size]
        yield pictures.images[chosen], pictures.labels[chosen]
