"""Convert, augment and batch pictures."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.picture_set import PictureSet


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images (N, 3, H, W) to float32 in [0, 1]."""
    return images.float() / 255


@dataclass(frozen=True)
class Placement:
    """The pixels of the zero-padded pictures that a batch shows.

    Attributes:
        rows: (N, H), the padded picture's row for each row of the batch.
        columns: (N, W), likewise; falling where the picture is mirrored.
    """

    rows: Tensor
    columns: Tensor

    def of(self, padded: Tensor) -> Tensor:
        """Return the shown pixels (N, C, H, W) of padded pictures (N, C, H + 2 padding, W + 2 padding)."""
        picture = torch.arange(len(padded), device=padded.device)[:, None, None]
        # Advanced indices around the channel slice put the channels last; move them back.
        return padded[picture, :, self.rows[:, :, None], self.columns[:, None, :]].permute(0, 3, 1, 2)

    def put(self, padded: Tensor, shown: Tensor) -> None:
        """Write shown pixels (N, C, H, W) back to their places in padded pictures. All others stay."""
        picture = torch.arange(len(padded), device=padded.device)[:, None, None]
        padded[picture, :, self.rows[:, :, None], self.columns[:, None, :]] = shown.permute(0, 2, 3, 1)

    def to(self, device: torch.device) -> "Placement":
        """Return the same placement on a device."""
        return Placement(self.rows.to(device), self.columns.to(device))


def draw_placement(images: Tensor, *, padding: int, flip: bool) -> Placement:
    """Draw a crop of each zero-padded picture and, if asked, whether it is mirrored.

    The draws come from torch's global generator.

    Args:
        images: (N, 3, H, W).
        padding: Zero padding on each side, in pixels.
        flip: Whether half of the pictures are mirrored.
    """
    count, _, height, width = images.shape
    device = images.device
    rows = torch.randint(2 * padding + 1, (count, 1), device=device) + torch.arange(height, device=device)
    columns = torch.randint(2 * padding + 1, (count, 1), device=device) + torch.arange(width, device=device)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return Placement(rows, columns)


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
    return draw_placement(images, padding=padding, flip=flip).of(F.pad(images, (padding,) * 4))


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
