"""Pictures to check an export on: made up by default, so that a check needs no data, or a user's own."""

import math
from pathlib import Path

import torch
from torch import Tensor

from sgn_serve.pictures.errors import PictureRefused
from sgn_serve.pictures.files import SUFFIXES, read_rgb
from sgn_serve.pictures.folders import Skipped, find_pictures


class PicturesError(ValueError):
    """A folder that does not hold the pictures asked for; the message names the folder and what was expected."""


def structured_pictures(count: int, channels: int, image_size: tuple[int, int], seed: int = 0) -> Tensor:
    """Random pictures with the structure of real ones: smooth shading, hard edges, texture, a little noise.

    Uniform noise would not do: networks answer it almost alike, so a gradient that ignores the picture could pass.

    image_size: (height, width) in pixels
    returns:    (count, channels, height, width) float32 in [0, 1]; the same for the same arguments
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    height, width = image_size
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    pictures = []
    for _ in range(count):
        picture = uniform(channels, 1, 1) * 0.6 + 0.2 + (uniform(channels, 1, 1) - 0.5) * rows
        for waves in (2.0, 6.0):  # shading, then texture
            angle, phase = uniform(2, 1, 1) * 2 * math.pi
            wave = torch.sin(2 * math.pi * waves * (rows * torch.sin(angle) + columns * torch.cos(angle)) + phase)
            picture = picture + (uniform(channels, 1, 1) - 0.5) * 0.6 * wave
        for _ in range(3):
            top, left, size = uniform(3) * torch.tensor([0.8, 0.8, 0.4]) + torch.tensor([0.0, 0.0, 0.1])
            inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
            picture = torch.where(inside, uniform(channels, 1, 1), picture)
        pictures.append(picture + (uniform(channels, height, width) - 0.5) * 0.1)
    return torch.stack(pictures).clamp(0, 1)


def pictures_in(folder: Path, count: int, image_size: tuple[int, int]) -> Tensor:
    """The first pictures of a folder by name, as RGB, resized to what the network was trained at.

    image_size: (height, width) in pixels
    returns:    (count, 3, height, width) float32 in [0, 1]
    raises PicturesError where there is no such folder, too few pictures, or one that cannot be read
    """
    if not folder.is_dir():
        raise PicturesError(f"{folder}: no such folder; --pictures takes a folder of at least {count} pictures")
    paths = find_pictures(folder, Skipped(), recursive=False)[:count]
    if len(paths) < count:
        raise PicturesError(f"{folder}: {len(paths)} pictures, at least {count} are needed ({', '.join(SUFFIXES)})")
    return torch.stack([_read(path, image_size) for path in paths])


def pictures_under(folder: Path, count: int, image_size: tuple[int, int]) -> Tensor:
    """Pictures of a folder and the folders in it, evenly spaced among all of them by name, so of every class.

    image_size: (height, width) in pixels
    returns:    (count, 3, height, width) float32 in [0, 1]
    raises PicturesError where there is no such folder, too few pictures, or one that cannot be read
    """
    if not folder.is_dir():
        raise PicturesError(f"{folder}: no such folder; --pictures takes a folder of at least {count} pictures")
    paths = find_pictures(folder, Skipped())
    if len(paths) < count:
        raise PicturesError(
            f"{folder}: {len(paths)} pictures, but {count} are needed to calibrate and to compare with float32; "
            "name a folder of more, or compare on fewer with --agreement-pictures"
        )
    return torch.stack([_read(paths[index * len(paths) // count], image_size) for index in range(count)])


def _read(path: Path, image_size: tuple[int, int]) -> Tensor:
    try:
        pixels = read_rgb(path, image_size)
    except (OSError, PictureRefused) as error:
        raise PicturesError(f"{path}: not a picture that can be read ({error})") from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
