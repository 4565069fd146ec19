"""Draw random-resized crops: parts of random size, aspect and place, resampled to the network's size.

The pictures are kept whole, larger than the network, and stretched to one square, so that all are one tensor. A crop is
cut at the picture's own aspect all the same, because each picture's aspect is kept beside it.

Source: Szegedy et al., Going Deeper with Convolutions (2015), section 6; the drawing is torchvision's
RandomResizedCrop, which is not used because it draws from the global generator, one picture at a time.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROOM = 4 / 3
"""Side of a kept picture, in sides of the network. A crop of all of it is then shrunk by 4/3 at most, which bilinear
sampling does without aliasing that matters. A crop of 0.35 of it, the usual smallest share, is enlarged by 1.27."""
ASPECTS = (3 / 4, 4 / 3)
"""Widths over heights of a crop, uniform in their logarithm, as in torchvision."""
_ATTEMPTS = 10


@dataclass(frozen=True)
class WholePictures:
    """Whole pictures with room for crops.

    Attributes:
        images: (N, 3, K, K) uint8, each stretched to a square.
        aspects: (N) float32 on the CPU, width over height of each picture before it was stretched.
    """

    images: Tensor
    aspects: Tensor

    def subset(self, indices: Tensor) -> "WholePictures":
        """Return copies of the pictures at `indices` (M)."""
        return WholePictures(self.images[indices], self.aspects[indices.to(self.aspects.device)])

    def to(self, device: torch.device) -> "WholePictures":
        """Return the same pictures on a device."""
        return replace(self, images=self.images.to(device))


def kept_side(side: int) -> int:
    """Return the side in pixels at which pictures are kept for crops of `side` pixels."""
    return math.ceil(ROOM * side)


def aspects_of(sizes: list[tuple[int, int]]) -> Tensor:
    """Return the aspects of pictures of these (height, width), as WholePictures holds them."""
    return torch.from_numpy(np.array([width / height for height, width in sizes], np.float32))


def draw_boxes(aspects: Tensor, smallest: float, seed: int) -> Tensor:
    """Draw a crop for each picture.

    A crop's area is uniform in [smallest, 1] of the picture's. Where ten draws do not fit into the picture, the largest
    central part of an allowed aspect is taken.

    Args:
        aspects: (N), width over height.
        smallest: Smallest share of the area, in (0, 1].
        seed: Decides every draw. The crop of a picture depends on nothing else but its index, the number of pictures
            and its aspect.

    Returns:
        (N, 4) float32: left, top, width and height as fractions of the picture's width and height.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(aspects)
    shares = smallest + (1 - smallest) * torch.rand(count, _ATTEMPTS, generator=generator)
    low, high = (math.log(aspect) for aspect in ASPECTS)
    ratios = (low + (high - low) * torch.rand(count, _ATTEMPTS, generator=generator)).exp()
    relative = ratios / aspects[:, None]
    sides = torch.stack([(shares * relative).sqrt(), (shares / relative).sqrt()], dim=2)
    fits = (sides <= 1).all(dim=2)
    first = fits.int().argmax(dim=1)
    drawn = sides[torch.arange(count), first]
    clamped = aspects.clamp(*ASPECTS) / aspects
    central = torch.stack([clamped.clamp(max=1), (1 / clamped).clamp(max=1)], dim=1)
    fitting = fits.any(dim=1, keepdim=True)
    extents = torch.where(fitting, drawn, central)
    places = torch.where(fitting, torch.rand(count, 2, generator=generator), 0.5)
    return torch.cat([places * (1 - extents), extents], dim=1)


def crop(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut a part out of each picture and resample it, bilinearly.

    Args:
        images: (N, 3, K, K) uint8.
        boxes: (N, 4) as draw_boxes returns them.
        side: Side of the result in pixels.

    Returns:
        (N, 3, side, side) uint8.
    """
    boxes = boxes.to(images.device)
    centres = (torch.arange(side, device=images.device) + 0.5) / side
    # grid_sample counts from -1 to 1 between the outer edges.
    across = 2 * (boxes[:, 0, None] + centres * boxes[:, 2, None]) - 1
    down = 2 * (boxes[:, 1, None] + centres * boxes[:, 3, None]) - 1
    grid = torch.stack(
        [across[:, None, :].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)],
        dim=3,
    )
    sampled = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.round().to(torch.uint8)
